/* SPDX-License-Identifier: Apache-2.0 */
#include "soft/ptxc/type.h"

#include <string.h>

const struct ptx_type_info ptx_types[TY_COUNT] = {[TY_NONE] = {"", 0, KIND_OPAQUE, "void"},
#define X(id, name, bytes, kind, c) [id] = {name, bytes, kind, c},
                                                  PTX_TYPES(X)
#undef X
};

enum ptx_type ptx_type_of(const char *text, size_t bytes)
{
    for (unsigned t = TY_NONE + 1; t < TY_COUNT; t++)
        if (strlen(ptx_types[t].name) == bytes && memcmp(ptx_types[t].name, text, bytes) == 0)
            return (enum ptx_type)t;
    return TY_NONE;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Why a call did not reach the worker, or its answer not the program: said once, and as a CUresult.
 */
#include <errno.h>

#include "src/shim/backend/table.h"
#include "src/shim/entry/entry.h"
#include "src/shim/remote/calls.h"
#include "src/wire/codec.h"

static uint64_t said[(HARP_OPS + 63) / 64]; /* once an op: logged; atomic */

static bool first_time(unsigned op)
{
    uint64_t bit = 1ull << op % 64;
    return (__atomic_fetch_or(&said[op / 64], bit, __ATOMIC_RELAXED) & bit) == 0;
}

CUresult harp_remote_failed(unsigned op, int err)
{
    const char *name = harp_wire_op(op)->name;
    switch (err) {
    case -ENOMEM:
        return CUDA_ERROR_OUT_OF_MEMORY;
    case -ESTALE:
        return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    case -ENOTSUP:
        if (first_time(op))
            harp_log("remote_refused name=%s why=\"an option, an attribute or host memory that may "
                     "not cross to another machine\" remedy=\"leave it out, or run this program "
                     "where the GPU is\"",
                     name);
        return CUDA_ERROR_NOT_SUPPORTED;
    case -E2BIG:
    case -EMSGSIZE:
        if (first_time(op))
            harp_log(
                "remote_refused name=%s why=\"more bytes than one call carries\" remedy=\"do it "
                "in parts\"",
                name);
        return CUDA_ERROR_NOT_SUPPORTED;
    default:
        return CUDA_ERROR_DEVICE_UNAVAILABLE;
    }
}

CUresult harp_remote_refused(unsigned symbol, CUresult fail, const char *why)
{
    static uint64_t told[(HARP_SYMS + 63) / 64];
    uint64_t bit = 1ull << symbol % 64;
    if ((__atomic_fetch_or(&told[symbol / 64], bit, __ATOMIC_RELAXED) & bit) == 0)
        harp_log("remote_refused name=%s why=\"%s\" remedy=\"run what needs it where the GPU is\"",
                 harp_sym_name[symbol], why);
    return fail;
}

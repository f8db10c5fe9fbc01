/* SPDX-License-Identifier: Apache-2.0
 *
 * cuGetProcAddress: the driver resolves (name, version, flags); its answer is then replaced by the
 * exported jump of the same symbol, so that a hook, if there is one, is met.
 *
 * A name our rows do not know could be an allocator we never heard of. A tenant without limits gets
 * it; a tenant with limits gets what the driver says of a name that does not exist.
 */
#include <stddef.h>
#include <string.h>

#include "generated/shim_symbols.h"
#include "src/shim/backend/table.h"
#include "src/shim/entry/entry.h"
#include "src/shim/gate/memory.h"
#include "src/shim/gate/session.h"

static unsigned long unknown; /* names withheld; relaxed */

/* First row of `name`; the row count if there is none. */
static unsigned first_row(const char *name)
{
    unsigned low = 0, high = harp_proc_row_count;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (strcmp(harp_proc_rows[middle].name, name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The stub for what the driver chose: the newest row not newer than `version`; the per-thread twin
 * when asked for and there is one. NULL: no such row. */
static void *stub_for(const char *name, int version, cuuint64_t flags)
{
    const struct harp_proc_row *plain = NULL, *twin = NULL;
    unsigned i = first_row(name);
    for (; i < harp_proc_row_count && strcmp(harp_proc_rows[i].name, name) == 0; i++) {
        const struct harp_proc_row *row = &harp_proc_rows[i];
        if (row->since > version || harp_real[row->sym] == NULL)
            continue;
        if (row->per_thread)
            twin = row;
        else
            plain = row;
    }
    bool per_thread = (flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM) != 0;
    const struct harp_proc_row *row = per_thread && twin != NULL ? twin : plain;
    if (row != NULL)
        return harp_sym_stub[row->sym];
    for (i = 0; i < harp_sym_count; i++) /* an exported name in full */
        if (harp_real[i] != NULL && strcmp(harp_sym_name[i], name) == 0)
            return harp_sym_stub[i];
    return NULL;
}

static bool withhold(const char *name)
{
    if (harp_env()->grant == NULL || !harp_session_limited())
        return false;
    unsigned long n = __atomic_add_fetch(&unknown, 1, __ATOMIC_RELAXED);
    harp_log("unknown_name name=%s withheld=%lu why=\"this tenant has limits, and the function may "
             "allocate\"",
             name, n);
    return true;
}

static const char nobody[] = "cuHarpNoSuchFunction";

CUresult harp_hook_cuGetProcAddress(const char *symbol, void **pfn, int cudaVersion,
                                    cuuint64_t flags)
{
    CUresult r;
    HARP_INSIDE(r, HARP_REAL(cuGetProcAddress)(symbol, pfn, cudaVersion, flags));
    if (r != CUDA_SUCCESS || symbol == NULL || pfn == NULL || *pfn == NULL || harp_inside())
        return r;
    void *stub = stub_for(symbol, cudaVersion, flags);
    if (stub != NULL)
        *pfn = stub;
    else if (withhold(symbol))
        r = HARP_REAL(cuGetProcAddress)(nobody, pfn, cudaVersion, flags);
    return r;
}

CUresult harp_hook_cuGetProcAddress_v2(const char *symbol, void **pfn, int cudaVersion,
                                       cuuint64_t flags,
                                       CUdriverProcAddressQueryResult *symbolStatus)
{
    CUresult r;
    HARP_INSIDE(r, HARP_REAL(cuGetProcAddress_v2)(symbol, pfn, cudaVersion, flags, symbolStatus));
    if (r != CUDA_SUCCESS || symbol == NULL || pfn == NULL || *pfn == NULL || harp_inside())
        return r;
    void *stub = stub_for(symbol, cudaVersion, flags);
    if (stub != NULL)
        *pfn = stub;
    else if (withhold(symbol))
        r = HARP_REAL(cuGetProcAddress_v2)(nobody, pfn, cudaVersion, flags, symbolStatus);
    return r;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Names to functions, codes to words, and the one refusal that every user should hear plainly: the
 * driver's private tables.
 */
#include <string.h>

#include "src/shim/backend/table.h"
#include "src/shim/entry/entry.h"
#include "src/shim/remote/calls.h"
#include "src/shim/remote/snapshot.h"

/* --- cuGetProcAddress ------------------------------------------------------------------------- */

/* A function that is found and answers an error is fatal to clients that would have done without:
 * what is refused is not found, as if this driver had none of it. */
static bool there(unsigned symbol)
{
    return !harp_remote_absent[symbol] || harp_remote_own[symbol] != NULL;
}

static void *find(const char *name, int version, bool per_thread,
                  CUdriverProcAddressQueryResult *status)
{
    const struct harp_proc_row *plain = NULL, *twin = NULL;
    int driver = harp_remote_driver_version();
    bool known = false;
    unsigned low = 0, high = harp_proc_row_count;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (strcmp(harp_proc_rows[middle].name, name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < harp_proc_row_count && strcmp(harp_proc_rows[low].name, name) == 0; low++) {
        const struct harp_proc_row *row = &harp_proc_rows[low];
        if (row->since > driver || !there(row->sym))
            continue;
        known = true;
        if (row->since > version)
            continue;
        if (row->per_thread)
            twin = row;
        else
            plain = row;
    }
    const struct harp_proc_row *found = per_thread && twin != NULL ? twin : plain;
    *status = found != NULL ? CU_GET_PROC_ADDRESS_SUCCESS
              : known       ? CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT
                            : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return found != NULL ? harp_sym_stub[found->sym] : NULL;
}

CUresult harp_remote_cuGetProcAddress_v2(const char *symbol, void **pfn, int cudaVersion,
                                         cuuint64_t flags,
                                         CUdriverProcAddressQueryResult *symbolStatus)
{
    CUdriverProcAddressQueryResult status = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    const cuuint64_t both =
        CU_GET_PROC_ADDRESS_LEGACY_STREAM | CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM;
    bool valid = symbol != NULL && pfn != NULL && (flags & ~both) == 0;
    void *found = NULL;
    if (valid)
        found = find(symbol, cudaVersion,
                     (flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM) != 0, &status);
    if (symbolStatus != NULL)
        *symbolStatus = status;
    if (pfn != NULL)
        *pfn = found;
    return !valid ? CUDA_ERROR_INVALID_VALUE : found != NULL ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

CUresult harp_remote_cuGetProcAddress(const char *symbol, void **pfn, int cudaVersion,
                                      cuuint64_t flags)
{
    return harp_remote_cuGetProcAddress_v2(symbol, pfn, cudaVersion, flags, NULL);
}

/* Private tables are how libcudart asks the driver to prove that it is NVIDIA's. HARP imitates that
 * in no form. */
CUresult harp_remote_cuGetExportTable(const void **ppExportTable, const CUuuid *pExportTableId)
{
    static int told;
    if (ppExportTable == NULL || pExportTableId == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *ppExportTable = NULL;
    if (__atomic_exchange_n(&told, 1, __ATOMIC_RELAXED) == 0)
        harp_log(
            "remote_refused name=cuGetExportTable why=\"the CUDA runtime (libcudart: nvcc "
            "builds, PyTorch, CuPy) has the driver authenticate itself, which HARP does not "
            "imitate\" remedy=\"run this program where the GPU is, where HARP passes it on, or "
            "use the driver API (tinygrad DEV=CUDA:PTX, cuda-python, numba-cuda)\"");
    return CUDA_ERROR_NOT_FOUND;
}

/* --- cuGetErrorName --------------------------------------------------------------------------- */

static const char *name_of(CUresult code)
{
    switch (code) {
#define HARP_RESULT(result, text)                                                                  \
    case result:                                                                                   \
        return #result;
#include "generated/results.inc"
#undef HARP_RESULT
    }
    return NULL;
}

static const char *text_of(CUresult code)
{
    switch (code) {
#define HARP_RESULT(result, text)                                                                  \
    case result:                                                                                   \
        return text;
#include "generated/results.inc"
#undef HARP_RESULT
    }
    return NULL;
}

static CUresult answer(const char *found, const char **out)
{
    if (out == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *out = found;
    return found != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult harp_remote_cuGetErrorName(CUresult error, const char **pStr)
{
    return answer(name_of(error), pStr);
}

CUresult harp_remote_cuGetErrorString(CUresult error, const char **pStr)
{
    return answer(text_of(error), pStr);
}

/* --- profilers -------------------------------------------------------------------------------- */

CUresult harp_remote_cuProfilerStart(void)
{
    return harp_remote_ready();
}

CUresult harp_remote_cuProfilerStop(void)
{
    return harp_remote_ready();
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Names to entry points, and the two refusals that every client should hear plainly: a function
 * that the software GPU has not got, and the driver's private tables.
 */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "generated/soft_symbols.h"
#include "soft/gpu/context.h"
#include "soft/gpu/driver.h"
#include "soft/gpu/soft.h"

/* Once a name: bit set when it was logged. */
static _Atomic uint64_t said[(SOFT_SYMBOLS + 63) / 64];

static bool first_time(unsigned symbol)
{
    uint64_t bit = 1ull << (symbol % 64);

    return (atomic_fetch_or_explicit(&said[symbol / 64], bit, memory_order_relaxed) & bit) == 0;
}

void soft_unimplemented(enum soft_symbol symbol)
{
    int saved = errno;

    if (first_time((unsigned)symbol))
        soft_log("%s is not implemented by the software GPU and answers an error",
                 soft_symbols[symbol].name);
    errno = saved;
}

static CUresult find(const char *name, void **entry, int version, cuuint64_t flags,
                     CUdriverProcAddressQueryResult *status)
{
    bool per_thread = (flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM) != 0;
    int why = 0, symbol;

    if (status != NULL)
        *status = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    if (entry != NULL)
        *entry = NULL;
    if (name == NULL || entry == NULL ||
        (flags & ~(cuuint64_t)(CU_GET_PROC_ADDRESS_LEGACY_STREAM |
                               CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM)) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    symbol = soft_proc_find(name, version, per_thread, soft_driver_version(), &why);
    /* A stub that is found and answers an error when called is fatal to clients that would have
     * done without the function: what is not implemented is not found. */
    if (symbol >= 0 && !soft_symbols[symbol].implemented) {
        symbol = -1;
        why = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    }
    if (symbol < 0) {
        if (status != NULL)
            *status = (CUdriverProcAddressQueryResult)why;
        return CUDA_ERROR_NOT_FOUND;
    }
    *entry = soft_symbols[symbol].address;
    if (status != NULL)
        *status = CU_GET_PROC_ADDRESS_SUCCESS;
    return CUDA_SUCCESS;
}

SOFT_API CUresult cuGetProcAddress(const char *name, void **entry, int version, cuuint64_t flags)
{
    return find(name, entry, version, flags, NULL);
}

SOFT_API CUresult cuGetProcAddress_v2(const char *name, void **entry, int version, cuuint64_t flags,
                                      CUdriverProcAddressQueryResult *status)
{
    return find(name, entry, version, flags, status);
}

/* Private tables are how libcudart asks the driver to prove that it is NVIDIA's. HARP does not
 * imitate that in any form, so every table is refused and the user is told why, once. */
SOFT_API CUresult cuGetExportTable(const void **table, const CUuuid *id)
{
    static _Atomic bool told;

    if (table == NULL || id == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *table = NULL;
    if (!atomic_exchange_explicit(&told, true, memory_order_relaxed))
        soft_log("a private driver table was asked for and refused. Programs that use the CUDA "
                 "runtime (libcudart: nvcc builds, PyTorch, CuPy) cannot run on the software GPU, "
                 "because the runtime makes the driver authenticate itself and HARP does not "
                 "imitate that. Way out: a driver-API program (tinygrad DEV=CUDA:PTX, cuda-python, "
                 "numba-cuda), or a machine with a real GPU, where HARP passes it on untouched");
    return CUDA_ERROR_NOT_FOUND;
}

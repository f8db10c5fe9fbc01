# SPDX-License-Identifier: Apache-2.0
# fmt: off
"""Contexts, primary contexts, green contexts."""

from __future__ import annotations

from native.api.model import Charge, Cls, Function, Gate, fn

ROWS: tuple[Function, ...] = (
    fn("cuDevicePrimaryCtxRetain", Cls.CTX, Gate.CTX_CREATE, """
        cuDevicePrimaryCtxRetain 7000 (CUcontext *pctx, CUdevice dev)""",
        remote="sync pctx=ref",
        charge=Charge.CONTEXT),
    fn("cuDevicePrimaryCtxRelease", Cls.CTX, Gate.CTX_DESTROY, """
        cuDevicePrimaryCtxRelease 7000 (CUdevice dev)
        cuDevicePrimaryCtxRelease_v2 11000 (CUdevice dev)""",
        remote="async"),
    fn("cuDevicePrimaryCtxSetFlags", Cls.CTX, Gate.NONE, """
        cuDevicePrimaryCtxSetFlags 7000 (CUdevice dev, unsigned int flags)
        cuDevicePrimaryCtxSetFlags_v2 11000 (CUdevice dev, unsigned int flags)""",
        remote="sync"),
    fn("cuDevicePrimaryCtxGetState", Cls.QUERY, Gate.NONE, """
        cuDevicePrimaryCtxGetState 7000 (CUdevice dev, unsigned int *flags, int *active)""",
        remote="cached"),
    fn("cuDevicePrimaryCtxReset", Cls.CTX, Gate.CTX_DESTROY, """
        cuDevicePrimaryCtxReset 7000 (CUdevice dev)
        cuDevicePrimaryCtxReset_v2 11000 (CUdevice dev)""",
        remote="sync"),
    fn("cuCtxCreate", Cls.CTX, Gate.CTX_CREATE, """
        cuCtxCreate 2000 (CUcontext *pctx, unsigned int flags, CUdevice dev)
        cuCtxCreate_v2 3020 (CUcontext *pctx, unsigned int flags, CUdevice dev)
        cuCtxCreate_v3 11040 (CUcontext *pctx, CUexecAffinityParam *paramsArray, int numParams,
            unsigned int flags, CUdevice dev)
        cuCtxCreate_v4 12050 (CUcontext *pctx, CUctxCreateParams *ctxCreateParams,
            unsigned int flags, CUdevice dev)""",
        remote="sync pctx=new paramsArray=in[numParams] ctxCreateParams=in",
        charge=Charge.CONTEXT),
    fn("cuCtxDestroy", Cls.CTX, Gate.CTX_DESTROY, """
        cuCtxDestroy 2000 (CUcontext ctx)
        cuCtxDestroy_v2 4000 (CUcontext ctx)""",
        remote="sync ctx=del"),
    fn("cuCtxPushCurrent", Cls.CTX, Gate.NONE, """
        cuCtxPushCurrent 2000 (CUcontext ctx)
        cuCtxPushCurrent_v2 4000 (CUcontext ctx)""",
        remote="local: the thread's own stack; cuCtxSetCurrent goes ahead of its next call"),
    fn("cuCtxPopCurrent", Cls.CTX, Gate.NONE, """
        cuCtxPopCurrent 2000 (CUcontext *pctx)
        cuCtxPopCurrent_v2 4000 (CUcontext *pctx)""",
        remote="local: the thread's own stack; cuCtxSetCurrent goes ahead of its next call"),
    fn("cuCtxSetCurrent", Cls.CTX, Gate.NONE, """
        cuCtxSetCurrent 4000 (CUcontext ctx)""",
        remote="async"),
    fn("cuCtxGetCurrent", Cls.QUERY, Gate.NONE, """
        cuCtxGetCurrent 4000 (CUcontext *pctx)""",
        remote="local: the thread's own stack"),
    fn("cuCtxGetDevice", Cls.QUERY, Gate.NONE, """
        cuCtxGetDevice 2000 (CUdevice *device)
        cuCtxGetDevice_v2 13000 (CUdevice *device, CUcontext ctx)""",
        remote="cached"),
    fn("cuCtxGetFlags", Cls.QUERY, Gate.NONE, """
        cuCtxGetFlags 7000 (unsigned int *flags)""",
        remote="cached"),
    fn("cuCtxSetFlags", Cls.CTX, Gate.NONE, """
        cuCtxSetFlags 12010 (unsigned int flags)""",
        remote="sync"),
    fn("cuCtxGetId", Cls.QUERY, Gate.NONE, """
        cuCtxGetId 12000 (CUcontext ctx, unsigned long long *ctxId)""",
        remote="cached"),
    fn("cuCtxSynchronize", Cls.SYNC, Gate.TRACK, """
        cuCtxSynchronize 2000 ()
        cuCtxSynchronize_v2 13000 (CUcontext ctx)""",
        remote="sync"),
    fn("cuCtxSetLimit", Cls.ALLOC, Gate.MEM_ALLOC, """
        cuCtxSetLimit 3010 (CUlimit limit, size_t value)""",
        remote="sync",
        charge=Charge.LIMIT),
    fn("cuCtxGetLimit", Cls.QUERY, Gate.NONE, """
        cuCtxGetLimit 3010 (size_t *pvalue, CUlimit limit)""",
        remote="cached"),
    fn("cuCtxGetCacheConfig", Cls.QUERY, Gate.NONE, """
        cuCtxGetCacheConfig 3020 (CUfunc_cache *pconfig)""",
        remote="cached"),
    fn("cuCtxSetCacheConfig", Cls.OTHER, Gate.NONE, """
        cuCtxSetCacheConfig 3020 (CUfunc_cache config)""",
        remote="async"),
    fn("cuCtxGetApiVersion", Cls.QUERY, Gate.NONE, """
        cuCtxGetApiVersion 3020 (CUcontext ctx, unsigned int *version)""",
        remote="cached"),
    fn("cuCtxGetStreamPriorityRange", Cls.QUERY, Gate.NONE, """
        cuCtxGetStreamPriorityRange 5050 (int *leastPriority, int *greatestPriority)""",
        remote="cached"),
    fn("cuCtxResetPersistingL2Cache", Cls.OTHER, Gate.NONE, """
        cuCtxResetPersistingL2Cache 11000 ()""",
        remote="async"),
    fn("cuCtxGetExecAffinity", Cls.QUERY, Gate.NONE, """
        cuCtxGetExecAffinity 11040 (CUexecAffinityParam *pExecAffinity, CUexecAffinityType type)""",
        remote="cached"),
    fn("cuCtxRecordEvent", Cls.SYNC, Gate.NONE, """
        cuCtxRecordEvent 12050 (CUcontext hCtx, CUevent hEvent)""",
        remote="async"),
    fn("cuCtxWaitEvent", Cls.SYNC, Gate.NONE, """
        cuCtxWaitEvent 12050 (CUcontext hCtx, CUevent hEvent)""",
        remote="async"),
    fn("cuCtxAttach", Cls.CTX, Gate.NONE, """
        cuCtxAttach 2000 (CUcontext *pctx, unsigned int flags)""",
        remote="sync pctx=ref"),
    fn("cuCtxDetach", Cls.CTX, Gate.CTX_DESTROY, """
        cuCtxDetach 2000 (CUcontext ctx)""",
        remote="sync"),
    fn("cuCtxGetSharedMemConfig", Cls.QUERY, Gate.NONE, """
        cuCtxGetSharedMemConfig 4020 (CUsharedconfig *pConfig)""",
        remote="cached"),
    fn("cuCtxSetSharedMemConfig", Cls.OTHER, Gate.NONE, """
        cuCtxSetSharedMemConfig 4020 (CUsharedconfig config)""",
        remote="async"),
    fn("cuCtxEnablePeerAccess", Cls.OTHER, Gate.NONE, """
        cuCtxEnablePeerAccess 4000 (CUcontext peerContext, unsigned int Flags)""",
        remote="sync"),
    fn("cuCtxDisablePeerAccess", Cls.OTHER, Gate.NONE, """
        cuCtxDisablePeerAccess 4000 (CUcontext peerContext)""",
        remote="sync"),
    fn("cuGreenCtxCreate", Cls.CTX, Gate.CTX_CREATE, """
        cuGreenCtxCreate 12040 (CUgreenCtx *phCtx, CUdevResourceDesc desc, CUdevice dev,
            unsigned int flags)""",
        remote="refused: CUdevResource is state of the driver's own; no bytes of it may come back "
            "over a wire",
        charge=Charge.CONTEXT),
    fn("cuGreenCtxDestroy", Cls.CTX, Gate.CTX_DESTROY, """
        cuGreenCtxDestroy 12040 (CUgreenCtx hCtx)""",
        remote="refused: CUdevResource is state of the driver's own; no bytes of it may come back "
            "over a wire"),
    fn("cuCtxFromGreenCtx", Cls.CTX, Gate.NONE, """
        cuCtxFromGreenCtx 12040 (CUcontext *pContext, CUgreenCtx hCtx)""",
        remote="refused: CUdevResource is state of the driver's own; no bytes of it may come back "
            "over a wire"),
    fn("cuDeviceGetDevResource", Cls.QUERY, Gate.NONE, """
        cuDeviceGetDevResource 12040 (CUdevice device, CUdevResource *resource,
            CUdevResourceType type)""",
        remote="refused: CUdevResource is state of the driver's own; no bytes of it may come back "
            "over a wire"),
    fn("cuCtxGetDevResource", Cls.QUERY, Gate.NONE, """
        cuCtxGetDevResource 12040 (CUcontext hCtx, CUdevResource *resource,
            CUdevResourceType type)""",
        remote="refused: CUdevResource is state of the driver's own; no bytes of it may come back "
            "over a wire"),
    fn("cuGreenCtxGetDevResource", Cls.QUERY, Gate.NONE, """
        cuGreenCtxGetDevResource 12040 (CUgreenCtx hCtx, CUdevResource *resource,
            CUdevResourceType type)""",
        remote="refused: CUdevResource is state of the driver's own; no bytes of it may come back "
            "over a wire"),
    fn("cuDevSmResourceSplitByCount", Cls.QUERY, Gate.NONE, """
        cuDevSmResourceSplitByCount 12040 (CUdevResource *result, unsigned int *nbGroups,
            const CUdevResource *input, CUdevResource *remaining, unsigned int useFlags,
            unsigned int minCount)""",
        remote="refused: CUdevResource is state of the driver's own; no bytes of it may come back "
            "over a wire"),
    fn("cuDevResourceGenerateDesc", Cls.QUERY, Gate.NONE, """
        cuDevResourceGenerateDesc 12040 (CUdevResourceDesc *phDesc, CUdevResource *resources,
            unsigned int nbResources)""",
        remote="refused: CUdevResource is state of the driver's own; no bytes of it may come back "
            "over a wire"),
    fn("cuGreenCtxRecordEvent", Cls.SYNC, Gate.NONE, """
        cuGreenCtxRecordEvent 12040 (CUgreenCtx hCtx, CUevent hEvent)""",
        remote="refused: CUdevResource is state of the driver's own; no bytes of it may come back "
            "over a wire"),
    fn("cuGreenCtxWaitEvent", Cls.SYNC, Gate.NONE, """
        cuGreenCtxWaitEvent 12040 (CUgreenCtx hCtx, CUevent hEvent)""",
        remote="refused: CUdevResource is state of the driver's own; no bytes of it may come back "
            "over a wire"),
    fn("cuStreamGetGreenCtx", Cls.QUERY, Gate.NONE, """
        cuStreamGetGreenCtx 12040 (CUstream hStream, CUgreenCtx *phCtx)""",
        remote="refused: CUdevResource is state of the driver's own; no bytes of it may come back "
            "over a wire"),
    fn("cuGreenCtxStreamCreate", Cls.OTHER, Gate.NONE, """
        cuGreenCtxStreamCreate 12050 (CUstream *phStream, CUgreenCtx greenCtx,
            unsigned int flags, int priority)""",
        remote="refused: CUdevResource is state of the driver's own; no bytes of it may come back "
            "over a wire"),
    fn("cuGreenCtxGetId", Cls.QUERY, Gate.NONE, """
        cuGreenCtxGetId 12090 (CUgreenCtx greenCtx, unsigned long long *greenCtxId)""",
        remote="refused: CUdevResource is state of the driver's own; no bytes of it may come back "
            "over a wire"),
)

# SPDX-License-Identifier: Apache-2.0
# fmt: off
"""Functions, launches, occupancy."""

from __future__ import annotations

from native.api.model import Charge, Cls, Function, Gate, fn

ROWS: tuple[Function, ...] = (
    fn("cuFuncGetAttribute", Cls.QUERY, Gate.NONE, """
        cuFuncGetAttribute 2020 (int *pi, CUfunction_attribute attrib, CUfunction hfunc)"""),
    fn("cuFuncSetAttribute", Cls.OTHER, Gate.NONE, """
        cuFuncSetAttribute 9000 (CUfunction hfunc, CUfunction_attribute attrib, int value)"""),
    fn("cuFuncSetCacheConfig", Cls.OTHER, Gate.NONE, """
        cuFuncSetCacheConfig 3000 (CUfunction hfunc, CUfunc_cache config)"""),
    fn("cuFuncGetModule", Cls.QUERY, Gate.NONE, """
        cuFuncGetModule 11000 (CUmodule *hmod, CUfunction hfunc)"""),
    fn("cuFuncGetName", Cls.QUERY, Gate.NONE, """
        cuFuncGetName 12030 (const char **name, CUfunction hfunc)"""),
    fn("cuFuncGetParamInfo", Cls.QUERY, Gate.NONE, """
        cuFuncGetParamInfo 12040 (CUfunction func, size_t paramIndex, size_t *paramOffset,
            size_t *paramSize)"""),
    fn("cuFuncIsLoaded", Cls.QUERY, Gate.NONE, """
        cuFuncIsLoaded 12040 (CUfunctionLoadingState *state, CUfunction function)"""),
    fn("cuFuncLoad", Cls.ALLOC, Gate.MEM_ALLOC, """
        cuFuncLoad 12040 (CUfunction function)""",
        charge=Charge.CODE),
    fn("cuLaunchKernel", Cls.LAUNCH, Gate.LAUNCH, """
        cuLaunchKernel 4000 ptsz=7000 (CUfunction f, unsigned int gridDimX,
            unsigned int gridDimY, unsigned int gridDimZ, unsigned int blockDimX,
            unsigned int blockDimY, unsigned int blockDimZ, unsigned int sharedMemBytes,
            CUstream hStream, void **kernelParams, void **extra)"""),
    fn("cuLaunchKernelEx", Cls.LAUNCH, Gate.LAUNCH, """
        cuLaunchKernelEx 11060 ptsz=11060 (const CUlaunchConfig *config, CUfunction f,
            void **kernelParams, void **extra)"""),
    fn("cuLaunchCooperativeKernel", Cls.LAUNCH, Gate.LAUNCH, """
        cuLaunchCooperativeKernel 9000 ptsz=9000 (CUfunction f, unsigned int gridDimX,
            unsigned int gridDimY, unsigned int gridDimZ, unsigned int blockDimX,
            unsigned int blockDimY, unsigned int blockDimZ, unsigned int sharedMemBytes,
            CUstream hStream, void **kernelParams)"""),
    fn("cuLaunchCooperativeKernelMultiDevice", Cls.LAUNCH, Gate.LAUNCH, """
        cuLaunchCooperativeKernelMultiDevice 9000 (CUDA_LAUNCH_PARAMS *launchParamsList,
            unsigned int numDevices, unsigned int flags)"""),
    fn("cuLaunchHostFunc", Cls.LAUNCH, Gate.CALLBACK, """
        cuLaunchHostFunc 10000 ptsz=10000 (CUstream hStream, CUhostFn fn, void *userData)"""),
    fn("cuFuncSetBlockShape", Cls.OTHER, Gate.NONE, """
        cuFuncSetBlockShape 2000 (CUfunction hfunc, int x, int y, int z)"""),
    fn("cuFuncSetSharedSize", Cls.OTHER, Gate.NONE, """
        cuFuncSetSharedSize 2000 (CUfunction hfunc, unsigned int bytes)"""),
    fn("cuParamSetSize", Cls.OTHER, Gate.NONE, """
        cuParamSetSize 2000 (CUfunction hfunc, unsigned int numbytes)"""),
    fn("cuParamSeti", Cls.OTHER, Gate.NONE, """
        cuParamSeti 2000 (CUfunction hfunc, int offset, unsigned int value)"""),
    fn("cuParamSetf", Cls.OTHER, Gate.NONE, """
        cuParamSetf 2000 (CUfunction hfunc, int offset, float value)"""),
    fn("cuParamSetv", Cls.OTHER, Gate.NONE, """
        cuParamSetv 2000 (CUfunction hfunc, int offset, void *ptr, unsigned int numbytes)"""),
    fn("cuLaunch", Cls.LAUNCH, Gate.LAUNCH, """
        cuLaunch 2000 (CUfunction f)"""),
    fn("cuLaunchGrid", Cls.LAUNCH, Gate.LAUNCH, """
        cuLaunchGrid 2000 (CUfunction f, int grid_width, int grid_height)"""),
    fn("cuLaunchGridAsync", Cls.LAUNCH, Gate.LAUNCH, """
        cuLaunchGridAsync 2000 (CUfunction f, int grid_width, int grid_height, CUstream hStream)"""),
    fn("cuParamSetTexRef", Cls.OTHER, Gate.NONE, """
        cuParamSetTexRef 2000 (CUfunction hfunc, int texunit, CUtexref hTexRef)"""),
    fn("cuFuncSetSharedMemConfig", Cls.OTHER, Gate.NONE, """
        cuFuncSetSharedMemConfig 4020 (CUfunction hfunc, CUsharedconfig config)"""),
    fn("cuOccupancyMaxActiveBlocksPerMultiprocessor", Cls.QUERY, Gate.NONE, """
        cuOccupancyMaxActiveBlocksPerMultiprocessor 6050 (int *numBlocks, CUfunction func,
            int blockSize, size_t dynamicSMemSize)"""),
    fn("cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags", Cls.QUERY, Gate.NONE, """
        cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags 7000 (int *numBlocks,
            CUfunction func, int blockSize, size_t dynamicSMemSize, unsigned int flags)"""),
    fn("cuOccupancyMaxPotentialBlockSize", Cls.QUERY, Gate.NONE, """
        cuOccupancyMaxPotentialBlockSize 6050 (int *minGridSize, int *blockSize,
            CUfunction func, CUoccupancyB2DSize blockSizeToDynamicSMemSize,
            size_t dynamicSMemSize, int blockSizeLimit)"""),
    fn("cuOccupancyMaxPotentialBlockSizeWithFlags", Cls.QUERY, Gate.NONE, """
        cuOccupancyMaxPotentialBlockSizeWithFlags 7000 (int *minGridSize, int *blockSize,
            CUfunction func, CUoccupancyB2DSize blockSizeToDynamicSMemSize,
            size_t dynamicSMemSize, int blockSizeLimit, unsigned int flags)"""),
    fn("cuOccupancyAvailableDynamicSMemPerBlock", Cls.QUERY, Gate.NONE, """
        cuOccupancyAvailableDynamicSMemPerBlock 10020 (size_t *dynamicSmemSize, CUfunction func,
            int numBlocks, int blockSize)"""),
    fn("cuOccupancyMaxPotentialClusterSize", Cls.QUERY, Gate.NONE, """
        cuOccupancyMaxPotentialClusterSize 11070 (int *clusterSize, CUfunction func,
            const CUlaunchConfig *config)"""),
    fn("cuOccupancyMaxActiveClusters", Cls.QUERY, Gate.NONE, """
        cuOccupancyMaxActiveClusters 11070 (int *numClusters, CUfunction func,
            const CUlaunchConfig *config)"""),
)

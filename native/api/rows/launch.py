# SPDX-License-Identifier: Apache-2.0
# fmt: off
"""Functions, launches, occupancy."""

from __future__ import annotations

from native.api.model import Charge, Cls, Function, Gate, fn

ROWS: tuple[Function, ...] = (
    fn("cuFuncGetAttribute", Cls.QUERY, Gate.NONE, """
        cuFuncGetAttribute 2020 (int *pi, CUfunction_attribute attrib, CUfunction hfunc)""",
        remote="cached"),
    fn("cuFuncSetAttribute", Cls.OTHER, Gate.NONE, """
        cuFuncSetAttribute 9000 (CUfunction hfunc, CUfunction_attribute attrib, int value)""",
        remote="async"),
    fn("cuFuncSetCacheConfig", Cls.OTHER, Gate.NONE, """
        cuFuncSetCacheConfig 3000 (CUfunction hfunc, CUfunc_cache config)""",
        remote="async"),
    fn("cuFuncGetModule", Cls.QUERY, Gate.NONE, """
        cuFuncGetModule 11000 (CUmodule *hmod, CUfunction hfunc)""",
        remote="cached hmod=ref"),
    fn("cuFuncGetName", Cls.QUERY, Gate.NONE, """
        cuFuncGetName 12030 (const char **name, CUfunction hfunc)""",
        remote="cached name=lent"),
    fn("cuFuncGetParamInfo", Cls.QUERY, Gate.NONE, """
        cuFuncGetParamInfo 12040 (CUfunction func, size_t paramIndex, size_t *paramOffset,
            size_t *paramSize)""",
        remote="cached"),
    fn("cuFuncIsLoaded", Cls.QUERY, Gate.NONE, """
        cuFuncIsLoaded 12040 (CUfunctionLoadingState *state, CUfunction function)""",
        remote="sync"),
    fn("cuFuncLoad", Cls.ALLOC, Gate.MEM_ALLOC, """
        cuFuncLoad 12040 (CUfunction function)""",
        remote="sync",
        charge=Charge.CODE),
    fn("cuLaunchKernel", Cls.LAUNCH, Gate.LAUNCH, """
        cuLaunchKernel 4000 ptsz=7000 (CUfunction f, unsigned int gridDimX,
            unsigned int gridDimY, unsigned int gridDimZ, unsigned int blockDimX,
            unsigned int blockDimY, unsigned int blockDimZ, unsigned int sharedMemBytes,
            CUstream hStream, void **kernelParams, void **extra)""",
        remote="async kernelParams=packed extra=none"),
    fn("cuLaunchKernelEx", Cls.LAUNCH, Gate.LAUNCH, """
        cuLaunchKernelEx 11060 ptsz=11060 (const CUlaunchConfig *config, CUfunction f,
            void **kernelParams, void **extra)""",
        remote="async kernelParams=packed extra=none"),
    fn("cuLaunchCooperativeKernel", Cls.LAUNCH, Gate.LAUNCH, """
        cuLaunchCooperativeKernel 9000 ptsz=9000 (CUfunction f, unsigned int gridDimX,
            unsigned int gridDimY, unsigned int gridDimZ, unsigned int blockDimX,
            unsigned int blockDimY, unsigned int blockDimZ, unsigned int sharedMemBytes,
            CUstream hStream, void **kernelParams)""",
        remote="async kernelParams=packed"),
    fn("cuLaunchCooperativeKernelMultiDevice", Cls.LAUNCH, Gate.LAUNCH, """
        cuLaunchCooperativeKernelMultiDevice 9000 (CUDA_LAUNCH_PARAMS *launchParamsList,
            unsigned int numDevices, unsigned int flags)""",
        remote="refused: deprecated; one cuLaunchCooperativeKernel a device"),
    fn("cuLaunchHostFunc", Cls.LAUNCH, Gate.CALLBACK, """
        cuLaunchHostFunc 10000 ptsz=10000 (CUstream hStream, CUhostFn fn, void *userData)""",
        remote="async fn=ticket userData=none"),
    fn("cuFuncSetBlockShape", Cls.OTHER, Gate.NONE, """
        cuFuncSetBlockShape 2000 (CUfunction hfunc, int x, int y, int z)""",
        remote="refused: launch state inside the driver, deprecated since CUDA 4; cuLaunchKernel"),
    fn("cuFuncSetSharedSize", Cls.OTHER, Gate.NONE, """
        cuFuncSetSharedSize 2000 (CUfunction hfunc, unsigned int bytes)""",
        remote="refused: launch state inside the driver, deprecated since CUDA 4; cuLaunchKernel"),
    fn("cuParamSetSize", Cls.OTHER, Gate.NONE, """
        cuParamSetSize 2000 (CUfunction hfunc, unsigned int numbytes)""",
        remote="refused: launch state inside the driver, deprecated since CUDA 4; cuLaunchKernel"),
    fn("cuParamSeti", Cls.OTHER, Gate.NONE, """
        cuParamSeti 2000 (CUfunction hfunc, int offset, unsigned int value)""",
        remote="refused: launch state inside the driver, deprecated since CUDA 4; cuLaunchKernel"),
    fn("cuParamSetf", Cls.OTHER, Gate.NONE, """
        cuParamSetf 2000 (CUfunction hfunc, int offset, float value)""",
        remote="refused: launch state inside the driver, deprecated since CUDA 4; cuLaunchKernel"),
    fn("cuParamSetv", Cls.OTHER, Gate.NONE, """
        cuParamSetv 2000 (CUfunction hfunc, int offset, void *ptr, unsigned int numbytes)""",
        remote="refused: launch state inside the driver, deprecated since CUDA 4; cuLaunchKernel"),
    fn("cuLaunch", Cls.LAUNCH, Gate.LAUNCH, """
        cuLaunch 2000 (CUfunction f)""",
        remote="refused: launch state inside the driver, deprecated since CUDA 4; cuLaunchKernel"),
    fn("cuLaunchGrid", Cls.LAUNCH, Gate.LAUNCH, """
        cuLaunchGrid 2000 (CUfunction f, int grid_width, int grid_height)""",
        remote="refused: launch state inside the driver, deprecated since CUDA 4; cuLaunchKernel"),
    fn("cuLaunchGridAsync", Cls.LAUNCH, Gate.LAUNCH, """
        cuLaunchGridAsync 2000 (CUfunction f, int grid_width, int grid_height, CUstream hStream)""",
        remote="refused: launch state inside the driver, deprecated since CUDA 4; cuLaunchKernel"),
    fn("cuParamSetTexRef", Cls.OTHER, Gate.NONE, """
        cuParamSetTexRef 2000 (CUfunction hfunc, int texunit, CUtexref hTexRef)""",
        remote="refused: launch state inside the driver, deprecated since CUDA 4; cuLaunchKernel"),
    fn("cuFuncSetSharedMemConfig", Cls.OTHER, Gate.NONE, """
        cuFuncSetSharedMemConfig 4020 (CUfunction hfunc, CUsharedconfig config)""",
        remote="async"),
    fn("cuOccupancyMaxActiveBlocksPerMultiprocessor", Cls.QUERY, Gate.NONE, """
        cuOccupancyMaxActiveBlocksPerMultiprocessor 6050 (int *numBlocks, CUfunction func,
            int blockSize, size_t dynamicSMemSize)""",
        remote="cached"),
    fn("cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags", Cls.QUERY, Gate.NONE, """
        cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags 7000 (int *numBlocks,
            CUfunction func, int blockSize, size_t dynamicSMemSize, unsigned int flags)""",
        remote="cached"),
    fn("cuOccupancyMaxPotentialBlockSize", Cls.QUERY, Gate.NONE, """
        cuOccupancyMaxPotentialBlockSize 6050 (int *minGridSize, int *blockSize,
            CUfunction func, CUoccupancyB2DSize blockSizeToDynamicSMemSize,
            size_t dynamicSMemSize, int blockSizeLimit)""",
        remote="local: calls the program's function for each size; the rest by the occupancy calls"),
    fn("cuOccupancyMaxPotentialBlockSizeWithFlags", Cls.QUERY, Gate.NONE, """
        cuOccupancyMaxPotentialBlockSizeWithFlags 7000 (int *minGridSize, int *blockSize,
            CUfunction func, CUoccupancyB2DSize blockSizeToDynamicSMemSize,
            size_t dynamicSMemSize, int blockSizeLimit, unsigned int flags)""",
        remote="local: calls the program's function for each size; the rest by the occupancy calls"),
    fn("cuOccupancyAvailableDynamicSMemPerBlock", Cls.QUERY, Gate.NONE, """
        cuOccupancyAvailableDynamicSMemPerBlock 10020 (size_t *dynamicSmemSize, CUfunction func,
            int numBlocks, int blockSize)""",
        remote="cached"),
    fn("cuOccupancyMaxPotentialClusterSize", Cls.QUERY, Gate.NONE, """
        cuOccupancyMaxPotentialClusterSize 11070 (int *clusterSize, CUfunction func,
            const CUlaunchConfig *config)""",
        remote="cached"),
    fn("cuOccupancyMaxActiveClusters", Cls.QUERY, Gate.NONE, """
        cuOccupancyMaxActiveClusters 11070 (int *numClusters, CUfunction func,
            const CUlaunchConfig *config)""",
        remote="cached"),
)

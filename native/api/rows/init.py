# SPDX-License-Identifier: Apache-2.0
# fmt: off
"""Start, versions, symbol lookup, errors, profiler, logs, checkpoint."""

from __future__ import annotations

from native.api.model import Charge, Cls, Function, Gate, fn

ROWS: tuple[Function, ...] = (
    fn("cuGetErrorString", Cls.QUERY, Gate.NONE, """
        cuGetErrorString 6000 (CUresult error, const char **pStr)""",
        remote="local: a table made from the rows"),
    fn("cuGetErrorName", Cls.QUERY, Gate.NONE, """
        cuGetErrorName 6000 (CUresult error, const char **pStr)""",
        remote="local: a table made from the rows"),
    fn("cuInit", Cls.OTHER, Gate.NONE, """
        cuInit 2000 (unsigned int Flags)""",
        remote="sync"),
    fn("cuDriverGetVersion", Cls.QUERY, Gate.NONE, """
        cuDriverGetVersion 2020 (int *driverVersion)""",
        remote="cached"),
    fn("cuGetProcAddress", Cls.QUERY, Gate.PROC_ADDRESS, """
        cuGetProcAddress 11030 (const char *symbol, void **pfn, int cudaVersion,
            cuuint64_t flags)
        cuGetProcAddress_v2 12000 (const char *symbol, void **pfn, int cudaVersion,
            cuuint64_t flags, CUdriverProcAddressQueryResult *symbolStatus)""",
        remote="local: a table made from the rows"),
    fn("cuCoredumpGetAttribute", Cls.QUERY, Gate.NONE, """
        cuCoredumpGetAttribute 12010 (CUcoredumpSettings attrib, void *value, size_t *size)""",
        remote="refused: about files and processes of the GPU's machine"),
    fn("cuCoredumpGetAttributeGlobal", Cls.QUERY, Gate.NONE, """
        cuCoredumpGetAttributeGlobal 12010 (CUcoredumpSettings attrib, void *value,
            size_t *size)""",
        remote="refused: about files and processes of the GPU's machine"),
    fn("cuCoredumpSetAttribute", Cls.OTHER, Gate.NONE, """
        cuCoredumpSetAttribute 12010 (CUcoredumpSettings attrib, void *value, size_t *size)""",
        remote="refused: about files and processes of the GPU's machine"),
    fn("cuCoredumpSetAttributeGlobal", Cls.OTHER, Gate.NONE, """
        cuCoredumpSetAttributeGlobal 12010 (CUcoredumpSettings attrib, void *value,
            size_t *size)""",
        remote="refused: about files and processes of the GPU's machine"),
    fn("cuGetExportTable", Cls.OTHER, Gate.NONE, """
        cuGetExportTable 3000 (const void **ppExportTable, const CUuuid *pExportTableId)""",
        remote="refused: private tables are not answered (libcudart, and what links it, cannot run "
            "remotely)"),
    fn("cuLogsRegisterCallback", Cls.OTHER, Gate.NONE, """
        cuLogsRegisterCallback 12090 (CUlogsCallback callbackFunc, void *userData,
            CUlogsCallbackHandle *callback_out)""",
        remote="refused: about the driver of the GPU's machine, which others use too"),
    fn("cuLogsUnregisterCallback", Cls.OTHER, Gate.NONE, """
        cuLogsUnregisterCallback 12090 (CUlogsCallbackHandle callback)""",
        remote="refused: about the driver of the GPU's machine, which others use too"),
    fn("cuLogsCurrent", Cls.QUERY, Gate.NONE, """
        cuLogsCurrent 12090 (CUlogIterator *iterator_out, unsigned int flags)""",
        remote="refused: about the driver of the GPU's machine, which others use too"),
    fn("cuLogsDumpToFile", Cls.OTHER, Gate.NONE, """
        cuLogsDumpToFile 12090 (CUlogIterator *iterator, const char *pathToFile,
            unsigned int flags)""",
        remote="refused: about the driver of the GPU's machine, which others use too"),
    fn("cuLogsDumpToMemory", Cls.OTHER, Gate.NONE, """
        cuLogsDumpToMemory 12090 (CUlogIterator *iterator, char *buffer, size_t *size,
            unsigned int flags)""",
        remote="refused: about the driver of the GPU's machine, which others use too"),
    fn("cuCheckpointProcessGetRestoreThreadId", Cls.QUERY, Gate.NONE, """
        cuCheckpointProcessGetRestoreThreadId 12080 (int pid, int *tid)""",
        remote="refused: about processes of this machine"),
    fn("cuCheckpointProcessGetState", Cls.QUERY, Gate.NONE, """
        cuCheckpointProcessGetState 12080 (int pid, CUprocessState *state)""",
        remote="refused: about processes of this machine"),
    fn("cuCheckpointProcessLock", Cls.OTHER, Gate.REFUSE, """
        cuCheckpointProcessLock 12080 (int pid, CUcheckpointLockArgs *args)""",
        remote="refused: about processes of this machine"),
    fn("cuCheckpointProcessCheckpoint", Cls.FREE, Gate.REFUSE, """
        cuCheckpointProcessCheckpoint 12080 (int pid, CUcheckpointCheckpointArgs *args)""",
        remote="refused: about processes of this machine"),
    fn("cuCheckpointProcessRestore", Cls.ALLOC, Gate.REFUSE, """
        cuCheckpointProcessRestore 12080 (int pid, CUcheckpointRestoreArgs *args)""",
        remote="refused: about processes of this machine",
        charge=Charge.NOTHING,
        why="refused; harpd's brings back what is charged already, and room is reserved before"),
    fn("cuCheckpointProcessUnlock", Cls.OTHER, Gate.REFUSE, """
        cuCheckpointProcessUnlock 12080 (int pid, CUcheckpointUnlockArgs *args)""",
        remote="refused: about processes of this machine"),
    fn("cuProfilerInitialize", Cls.OTHER, Gate.NONE, """
        cuProfilerInitialize 4000 (const char *configFile, const char *outputFile,
            CUoutput_mode outputMode)""",
        remote="refused: names files, and no path crosses the wire"),
    fn("cuProfilerStart", Cls.OTHER, Gate.NONE, """
        cuProfilerStart 4000 ()""",
        remote="local: succeeds; no profiler of this machine looks into a worker"),
    fn("cuProfilerStop", Cls.OTHER, Gate.NONE, """
        cuProfilerStop 4000 ()""",
        remote="local: succeeds; no profiler of this machine looks into a worker"),
)

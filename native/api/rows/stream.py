# SPDX-License-Identifier: Apache-2.0
# fmt: off
"""Streams, events, capture."""

from __future__ import annotations

from native.api.model import Cls, Function, Gate, fn

ROWS: tuple[Function, ...] = (
    fn("cuStreamCreate", Cls.OTHER, Gate.NONE, """
        cuStreamCreate 2000 (CUstream *phStream, unsigned int Flags)""",
        remote="async phStream=new"),
    fn("cuStreamCreateWithPriority", Cls.OTHER, Gate.NONE, """
        cuStreamCreateWithPriority 5050 (CUstream *phStream, unsigned int flags, int priority)""",
        remote="async phStream=new"),
    fn("cuStreamGetPriority", Cls.QUERY, Gate.NONE, """
        cuStreamGetPriority 5050 ptsz=7000 (CUstream hStream, int *priority)""",
        remote="cached"),
    fn("cuStreamGetDevice", Cls.QUERY, Gate.NONE, """
        cuStreamGetDevice 12080 ptsz=12080 (CUstream hStream, CUdevice *device)""",
        remote="cached"),
    fn("cuStreamGetFlags", Cls.QUERY, Gate.NONE, """
        cuStreamGetFlags 5050 ptsz=7000 (CUstream hStream, unsigned int *flags)""",
        remote="cached"),
    fn("cuStreamGetId", Cls.QUERY, Gate.NONE, """
        cuStreamGetId 12000 ptsz=12000 (CUstream hStream, unsigned long long *streamId)""",
        remote="cached"),
    fn("cuStreamGetCtx", Cls.QUERY, Gate.NONE, """
        cuStreamGetCtx 9020 ptsz=9020 (CUstream hStream, CUcontext *pctx)
        cuStreamGetCtx_v2 12050 ptsz=12050 (CUstream hStream, CUcontext *pCtx,
            CUgreenCtx *pGreenCtx)""",
        remote="cached pctx=ref pCtx=ref pGreenCtx=ref"),
    fn("cuStreamWaitEvent", Cls.SYNC, Gate.NONE, """
        cuStreamWaitEvent 3020 ptsz=7000 (CUstream hStream, CUevent hEvent, unsigned int Flags)""",
        remote="async"),
    fn("cuStreamAddCallback", Cls.LAUNCH, Gate.CALLBACK, """
        cuStreamAddCallback 5000 ptsz=7000 (CUstream hStream, CUstreamCallback callback,
            void *userData, unsigned int flags)""",
        remote="async callback=ticket userData=none"),
    fn("cuStreamBeginCapture", Cls.SYNC, Gate.CAPTURE, """
        cuStreamBeginCapture 10000 ptsz=10000 (CUstream hStream)
        cuStreamBeginCapture_v2 10010 ptsz=10010 (CUstream hStream, CUstreamCaptureMode mode)""",
        remote="sync"),
    fn("cuStreamBeginCaptureToGraph", Cls.SYNC, Gate.CAPTURE, """
        cuStreamBeginCaptureToGraph 12030 ptsz=12030 (CUstream hStream, CUgraph hGraph,
            const CUgraphNode *dependencies, const CUgraphEdgeData *dependencyData,
            size_t numDependencies, CUstreamCaptureMode mode)""",
        remote="sync dependencyData=in[numDependencies]"),
    fn("cuThreadExchangeStreamCaptureMode", Cls.SYNC, Gate.NONE, """
        cuThreadExchangeStreamCaptureMode 10010 (CUstreamCaptureMode *mode)""",
        remote="sync mode=inout"),
    fn("cuStreamEndCapture", Cls.SYNC, Gate.CAPTURE, """
        cuStreamEndCapture 10000 ptsz=10000 (CUstream hStream, CUgraph *phGraph)""",
        remote="sync phGraph=new"),
    fn("cuStreamIsCapturing", Cls.QUERY, Gate.NONE, """
        cuStreamIsCapturing 10000 ptsz=10000 (CUstream hStream,
            CUstreamCaptureStatus *captureStatus)""",
        remote="cached"),
    fn("cuStreamGetCaptureInfo", Cls.QUERY, Gate.NONE, """
        cuStreamGetCaptureInfo 10010 ptsz=10010 (CUstream hStream,
            CUstreamCaptureStatus *captureStatus_out, cuuint64_t *id_out)
        cuStreamGetCaptureInfo_v2 11030 ptsz=11030 (CUstream hStream,
            CUstreamCaptureStatus *captureStatus_out, cuuint64_t *id_out, CUgraph *graph_out,
            const CUgraphNode **dependencies_out, size_t *numDependencies_out)
        cuStreamGetCaptureInfo_v3 12030 ptsz=12030 (CUstream hStream,
            CUstreamCaptureStatus *captureStatus_out, cuuint64_t *id_out, CUgraph *graph_out,
            const CUgraphNode **dependencies_out, const CUgraphEdgeData **edgeData_out,
            size_t *numDependencies_out)""",
        remote="sync graph_out=ref dependencies_out=lent[*numDependencies_out] "
            "edgeData_out=lent[*numDependencies_out]"),
    fn("cuStreamUpdateCaptureDependencies", Cls.SYNC, Gate.NONE, """
        cuStreamUpdateCaptureDependencies 11030 ptsz=11030 (CUstream hStream,
            CUgraphNode *dependencies, size_t numDependencies, unsigned int flags)
        cuStreamUpdateCaptureDependencies_v2 12030 ptsz=12030 (CUstream hStream,
            CUgraphNode *dependencies, const CUgraphEdgeData *dependencyData,
            size_t numDependencies, unsigned int flags)""",
        remote="async dependencyData=in[numDependencies]"),
    fn("cuStreamAttachMemAsync", Cls.OTHER, Gate.NONE, """
        cuStreamAttachMemAsync 6000 ptsz=7000 (CUstream hStream, CUdeviceptr dptr,
            size_t length, unsigned int flags)""",
        remote="refused: managed memory: its pages would cross the wire at every fault"),
    fn("cuStreamQuery", Cls.SYNC, Gate.NONE, """
        cuStreamQuery 2000 ptsz=7000 (CUstream hStream)""",
        remote="cached"),
    fn("cuStreamSynchronize", Cls.SYNC, Gate.TRACK, """
        cuStreamSynchronize 2000 ptsz=7000 (CUstream hStream)""",
        remote="sync"),
    fn("cuStreamDestroy", Cls.FREE, Gate.STREAM, """
        cuStreamDestroy 2000 (CUstream hStream)
        cuStreamDestroy_v2 4000 (CUstream hStream)""",
        remote="async hStream=del"),
    fn("cuStreamCopyAttributes", Cls.OTHER, Gate.NONE, """
        cuStreamCopyAttributes 11000 ptsz=11000 (CUstream dstStream, CUstream srcStream)""",
        remote="async"),
    fn("cuStreamGetAttribute", Cls.QUERY, Gate.NONE, """
        cuStreamGetAttribute 11000 ptsz=11000 (CUstream hStream, CUstreamAttrID attr,
            CUstreamAttrValue *value)""",
        remote="sync value=out(attr)"),
    fn("cuStreamSetAttribute", Cls.OTHER, Gate.NONE, """
        cuStreamSetAttribute 11000 ptsz=11000 (CUstream hStream, CUstreamAttrID attr,
            const CUstreamAttrValue *param)""",
        remote="async param=in(attr)"),
    fn("cuEventCreate", Cls.OTHER, Gate.NONE, """
        cuEventCreate 2000 (CUevent *phEvent, unsigned int Flags)""",
        remote="async phEvent=new"),
    fn("cuEventRecord", Cls.SYNC, Gate.NONE, """
        cuEventRecord 2000 ptsz=7000 (CUevent hEvent, CUstream hStream)""",
        remote="async"),
    fn("cuEventRecordWithFlags", Cls.SYNC, Gate.NONE, """
        cuEventRecordWithFlags 11010 ptsz=11010 (CUevent hEvent, CUstream hStream,
            unsigned int flags)""",
        remote="async"),
    fn("cuEventQuery", Cls.SYNC, Gate.NONE, """
        cuEventQuery 2000 (CUevent hEvent)""",
        remote="cached"),
    fn("cuEventSynchronize", Cls.SYNC, Gate.TRACK, """
        cuEventSynchronize 2000 (CUevent hEvent)""",
        remote="sync"),
    fn("cuEventDestroy", Cls.FREE, Gate.NONE, """
        cuEventDestroy 2000 (CUevent hEvent)
        cuEventDestroy_v2 4000 (CUevent hEvent)""",
        remote="async hEvent=del"),
    fn("cuEventElapsedTime", Cls.QUERY, Gate.NONE, """
        cuEventElapsedTime 2000 (float *pMilliseconds, CUevent hStart, CUevent hEnd)
        cuEventElapsedTime_v2 12080 (float *pMilliseconds, CUevent hStart, CUevent hEnd)""",
        remote="cached"),
    fn("cuStreamWaitValue32", Cls.SYNC, Gate.STAY, """
        cuStreamWaitValue32 8000 ptsz=8000 (CUstream stream, CUdeviceptr addr, cuuint32_t value,
            unsigned int flags)
        cuStreamWaitValue32_v2 11070 ptsz=11070 (CUstream stream, CUdeviceptr addr,
            cuuint32_t value, unsigned int flags)""",
        remote="async"),
    fn("cuStreamWaitValue64", Cls.SYNC, Gate.STAY, """
        cuStreamWaitValue64 9000 ptsz=9000 (CUstream stream, CUdeviceptr addr, cuuint64_t value,
            unsigned int flags)
        cuStreamWaitValue64_v2 11070 ptsz=11070 (CUstream stream, CUdeviceptr addr,
            cuuint64_t value, unsigned int flags)""",
        remote="async"),
    fn("cuStreamWriteValue32", Cls.SYNC, Gate.STAY, """
        cuStreamWriteValue32 8000 ptsz=8000 (CUstream stream, CUdeviceptr addr,
            cuuint32_t value, unsigned int flags)
        cuStreamWriteValue32_v2 11070 ptsz=11070 (CUstream stream, CUdeviceptr addr,
            cuuint32_t value, unsigned int flags)""",
        remote="async"),
    fn("cuStreamWriteValue64", Cls.SYNC, Gate.STAY, """
        cuStreamWriteValue64 9000 ptsz=9000 (CUstream stream, CUdeviceptr addr,
            cuuint64_t value, unsigned int flags)
        cuStreamWriteValue64_v2 11070 ptsz=11070 (CUstream stream, CUdeviceptr addr,
            cuuint64_t value, unsigned int flags)""",
        remote="async"),
    fn("cuStreamBatchMemOp", Cls.SYNC, Gate.STAY, """
        cuStreamBatchMemOp 8000 ptsz=8000 (CUstream stream, unsigned int count,
            CUstreamBatchMemOpParams *paramArray, unsigned int flags)
        cuStreamBatchMemOp_v2 11070 ptsz=11070 (CUstream stream, unsigned int count,
            CUstreamBatchMemOpParams *paramArray, unsigned int flags)""",
        remote="async paramArray=in[count]"),
)

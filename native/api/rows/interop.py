# SPDX-License-Identifier: Apache-2.0
# fmt: off
"""OpenGL, EGL, VDPAU and the graphics resources they share."""

from __future__ import annotations

from native.api.model import Charge, Cls, Function, Gate, fn

ROWS: tuple[Function, ...] = (
    fn("cuGraphicsUnregisterResource", Cls.FREE, Gate.NONE, """
        cuGraphicsUnregisterResource 3000 (CUgraphicsResource resource)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere"),
    fn("cuGraphicsSubResourceGetMappedArray", Cls.QUERY, Gate.NONE, """
        cuGraphicsSubResourceGetMappedArray 3000 (CUarray *pArray, CUgraphicsResource resource,
            unsigned int arrayIndex, unsigned int mipLevel)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere"),
    fn("cuGraphicsResourceGetMappedMipmappedArray", Cls.QUERY, Gate.NONE, """
        cuGraphicsResourceGetMappedMipmappedArray 5000 (CUmipmappedArray *pMipmappedArray,
            CUgraphicsResource resource)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere"),
    fn("cuGraphicsResourceGetMappedPointer", Cls.QUERY, Gate.NONE, """
        cuGraphicsResourceGetMappedPointer 3000 (CUdeviceptr_v1 *pDevPtr, unsigned int *pSize,
            CUgraphicsResource resource)
        cuGraphicsResourceGetMappedPointer_v2 3020 (CUdeviceptr *pDevPtr, size_t *pSize,
            CUgraphicsResource resource)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere"),
    fn("cuGraphicsResourceSetMapFlags", Cls.OTHER, Gate.NONE, """
        cuGraphicsResourceSetMapFlags 3000 (CUgraphicsResource resource, unsigned int flags)
        cuGraphicsResourceSetMapFlags_v2 6050 (CUgraphicsResource resource, unsigned int flags)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere"),
    fn("cuGraphicsMapResources", Cls.ALLOC, Gate.NONE, """
        cuGraphicsMapResources 3000 ptsz=7000 (unsigned int count,
            CUgraphicsResource *resources, CUstream hStream)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere",
        charge=Charge.FOREIGN,
        why="memory of the graphics driver, made outside CUDA; the reconcile sees it by process"),
    fn("cuGraphicsUnmapResources", Cls.FREE, Gate.NONE, """
        cuGraphicsUnmapResources 3000 ptsz=7000 (unsigned int count,
            CUgraphicsResource *resources, CUstream hStream)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere"),
    fn("cuGraphicsGLRegisterBuffer", Cls.ALLOC, Gate.NONE, """
        cuGraphicsGLRegisterBuffer 3000 (CUgraphicsResource *pCudaResource, GLuint buffer,
            unsigned int Flags)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere",
        charge=Charge.FOREIGN,
        why="memory of the graphics driver, made outside CUDA; the reconcile sees it by process"),
    fn("cuGraphicsGLRegisterImage", Cls.ALLOC, Gate.NONE, """
        cuGraphicsGLRegisterImage 3000 (CUgraphicsResource *pCudaResource, GLuint image,
            GLenum target, unsigned int Flags)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere",
        charge=Charge.FOREIGN,
        why="memory of the graphics driver, made outside CUDA; the reconcile sees it by process"),
    fn("cuGLGetDevices", Cls.QUERY, Gate.NONE, """
        cuGLGetDevices 4010 (unsigned int *pCudaDeviceCount, CUdevice *pCudaDevices,
            unsigned int cudaDeviceCount, CUGLDeviceList deviceList)
        cuGLGetDevices_v2 6050 (unsigned int *pCudaDeviceCount, CUdevice *pCudaDevices,
            unsigned int cudaDeviceCount, CUGLDeviceList deviceList)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere"),
    fn("cuGLCtxCreate", Cls.CTX, Gate.CTX_CREATE, """
        cuGLCtxCreate 2000 (CUcontext *pCtx, unsigned int Flags, CUdevice device)
        cuGLCtxCreate_v2 3020 (CUcontext *pCtx, unsigned int Flags, CUdevice device)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere",
        charge=Charge.CONTEXT),
    fn("cuGLInit", Cls.CTX, Gate.NONE, """
        cuGLInit 2000 ()""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere"),
    fn("cuGLRegisterBufferObject", Cls.ALLOC, Gate.NONE, """
        cuGLRegisterBufferObject 2000 (GLuint buffer)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere",
        charge=Charge.FOREIGN,
        why="memory of the graphics driver, made outside CUDA; the reconcile sees it by process"),
    fn("cuGLMapBufferObject", Cls.ALLOC, Gate.NONE, """
        cuGLMapBufferObject 2000 (CUdeviceptr_v1 *dptr, unsigned int *size, GLuint buffer)
        cuGLMapBufferObject_v2 3020 ptds=7000 (CUdeviceptr *dptr, size_t *size, GLuint buffer)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere",
        charge=Charge.FOREIGN,
        why="memory of the graphics driver, made outside CUDA; the reconcile sees it by process"),
    fn("cuGLUnmapBufferObject", Cls.FREE, Gate.NONE, """
        cuGLUnmapBufferObject 2000 (GLuint buffer)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere"),
    fn("cuGLUnregisterBufferObject", Cls.FREE, Gate.NONE, """
        cuGLUnregisterBufferObject 2000 (GLuint buffer)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere"),
    fn("cuGLSetBufferObjectMapFlags", Cls.OTHER, Gate.NONE, """
        cuGLSetBufferObjectMapFlags 2030 (GLuint buffer, unsigned int Flags)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere"),
    fn("cuGLMapBufferObjectAsync", Cls.ALLOC, Gate.NONE, """
        cuGLMapBufferObjectAsync 2030 (CUdeviceptr_v1 *dptr, unsigned int *size, GLuint buffer,
            CUstream hStream)
        cuGLMapBufferObjectAsync_v2 3020 ptsz=7000 (CUdeviceptr *dptr, size_t *size,
            GLuint buffer, CUstream hStream)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere",
        charge=Charge.FOREIGN,
        why="memory of the graphics driver, made outside CUDA; the reconcile sees it by process"),
    fn("cuGLUnmapBufferObjectAsync", Cls.FREE, Gate.NONE, """
        cuGLUnmapBufferObjectAsync 2030 (GLuint buffer, CUstream hStream)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere"),
    fn("cuGraphicsEGLRegisterImage", Cls.ALLOC, Gate.NONE, """
        cuGraphicsEGLRegisterImage 7000 (CUgraphicsResource *pCudaResource, EGLImageKHR image,
            unsigned int flags)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere",
        charge=Charge.FOREIGN,
        why="memory of the graphics driver, made outside CUDA; the reconcile sees it by process"),
    fn("cuEGLStreamConsumerConnect", Cls.ALLOC, Gate.NONE, """
        cuEGLStreamConsumerConnect 7000 (CUeglStreamConnection *conn, EGLStreamKHR stream)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere",
        charge=Charge.FOREIGN,
        why="memory of the graphics driver, made outside CUDA; the reconcile sees it by process"),
    fn("cuEGLStreamConsumerConnectWithFlags", Cls.ALLOC, Gate.NONE, """
        cuEGLStreamConsumerConnectWithFlags 8000 (CUeglStreamConnection *conn,
            EGLStreamKHR stream, unsigned int flags)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere",
        charge=Charge.FOREIGN,
        why="memory of the graphics driver, made outside CUDA; the reconcile sees it by process"),
    fn("cuEGLStreamConsumerDisconnect", Cls.FREE, Gate.NONE, """
        cuEGLStreamConsumerDisconnect 7000 (CUeglStreamConnection *conn)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere"),
    fn("cuEGLStreamConsumerAcquireFrame", Cls.ALLOC, Gate.NONE, """
        cuEGLStreamConsumerAcquireFrame 7000 (CUeglStreamConnection *conn,
            CUgraphicsResource *pCudaResource, CUstream *pStream, unsigned int timeout)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere",
        charge=Charge.FOREIGN,
        why="memory of the graphics driver, made outside CUDA; the reconcile sees it by process"),
    fn("cuEGLStreamConsumerReleaseFrame", Cls.FREE, Gate.NONE, """
        cuEGLStreamConsumerReleaseFrame 7000 (CUeglStreamConnection *conn,
            CUgraphicsResource pCudaResource, CUstream *pStream)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere"),
    fn("cuEGLStreamProducerConnect", Cls.ALLOC, Gate.NONE, """
        cuEGLStreamProducerConnect 7000 (CUeglStreamConnection *conn, EGLStreamKHR stream,
            EGLint width, EGLint height)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere",
        charge=Charge.FOREIGN,
        why="memory of the graphics driver, made outside CUDA; the reconcile sees it by process"),
    fn("cuEGLStreamProducerDisconnect", Cls.FREE, Gate.NONE, """
        cuEGLStreamProducerDisconnect 7000 (CUeglStreamConnection *conn)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere"),
    fn("cuEGLStreamProducerPresentFrame", Cls.OTHER, Gate.NONE, """
        cuEGLStreamProducerPresentFrame 7000 (CUeglStreamConnection *conn, CUeglFrame eglframe,
            CUstream *pStream)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere"),
    fn("cuEGLStreamProducerReturnFrame", Cls.OTHER, Gate.NONE, """
        cuEGLStreamProducerReturnFrame 7000 (CUeglStreamConnection *conn, CUeglFrame *eglframe,
            CUstream *pStream)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere"),
    fn("cuGraphicsResourceGetMappedEglFrame", Cls.QUERY, Gate.NONE, """
        cuGraphicsResourceGetMappedEglFrame 7000 (CUeglFrame *eglFrame,
            CUgraphicsResource resource, unsigned int index, unsigned int mipLevel)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere"),
    fn("cuEventCreateFromEGLSync", Cls.OTHER, Gate.NONE, """
        cuEventCreateFromEGLSync 9000 (CUevent *phEvent, EGLSyncKHR eglSync, unsigned int flags)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere"),
    fn("cuVDPAUGetDevice", Cls.QUERY, Gate.NONE, """
        cuVDPAUGetDevice 3010 (CUdevice *pDevice, VdpDevice vdpDevice,
            VdpGetProcAddress *vdpGetProcAddress)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere"),
    fn("cuVDPAUCtxCreate", Cls.CTX, Gate.CTX_CREATE, """
        cuVDPAUCtxCreate 3010 (CUcontext *pCtx, unsigned int flags, CUdevice device,
            VdpDevice vdpDevice, VdpGetProcAddress *vdpGetProcAddress)
        cuVDPAUCtxCreate_v2 3020 (CUcontext *pCtx, unsigned int flags, CUdevice device,
            VdpDevice vdpDevice, VdpGetProcAddress *vdpGetProcAddress)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere",
        charge=Charge.CONTEXT),
    fn("cuGraphicsVDPAURegisterVideoSurface", Cls.ALLOC, Gate.NONE, """
        cuGraphicsVDPAURegisterVideoSurface 3010 (CUgraphicsResource *pCudaResource,
            VdpVideoSurface vdpSurface, unsigned int flags)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere",
        charge=Charge.FOREIGN,
        why="memory of the graphics driver, made outside CUDA; the reconcile sees it by process"),
    fn("cuGraphicsVDPAURegisterOutputSurface", Cls.ALLOC, Gate.NONE, """
        cuGraphicsVDPAURegisterOutputSurface 3010 (CUgraphicsResource *pCudaResource,
            VdpOutputSurface vdpSurface, unsigned int flags)""",
        remote="refused: graphics of this machine share nothing with a GPU elsewhere",
        charge=Charge.FOREIGN,
        why="memory of the graphics driver, made outside CUDA; the reconcile sees it by process"),
)

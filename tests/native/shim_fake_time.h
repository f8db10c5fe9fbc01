/* SPDX-License-Identifier: Apache-2.0
 *
 * Time in the fake driver: streams, launches, copies and events. Part of shim_fake_cuda.c.
 */

static struct stream *stream_of(CUstream s)
{
    return (uintptr_t)s > 2 ? (struct stream *)s : &legacy;
}

CUresult cuStreamCreate(CUstream *s, unsigned int flags)
{
    *s = calloc(1, sizeof(struct stream));
    return CUDA_SUCCESS;
}

CUresult cuStreamDestroy_v2(CUstream s)
{
    free(s);
    return CUDA_SUCCESS;
}

CUresult cuStreamQuery(CUstream s)
{
    return now_ns() >= stream_of(s)->end_ns ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult cuStreamBeginCapture_v2(CUstream s, CUstreamCaptureMode mode)
{
    stream_of(s)->capturing = 1;
    return CUDA_SUCCESS;
}

CUresult cuStreamEndCapture(CUstream s, CUgraph *g)
{
    stream_of(s)->capturing = 0;
    *g = NULL;
    return CUDA_SUCCESS;
}

CUresult cuStreamIsCapturing(CUstream s, CUstreamCaptureStatus *status)
{
    *status =
        stream_of(s)->capturing ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
}

static CUresult run(CUstream s, uint64_t ns)
{
    struct stream *on = stream_of(s);
    if (on->capturing)
        return CUDA_SUCCESS;
    pthread_mutex_lock(&lock);
    uint64_t from = now_ns();
    if (device_end_ns > from)
        from = device_end_ns;
    on->end_ns = device_end_ns = from + ns;
    pthread_mutex_unlock(&lock);
    return CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction f, unsigned int gx, unsigned int gy, unsigned int gz,
                        unsigned int bx, unsigned int by, unsigned int bz, unsigned int shared,
                        CUstream s, void **params, void **extra)
{
    __atomic_fetch_add(&launches, 1, __ATOMIC_RELAXED);
    struct timespec t = {0, launch_us * 1000};
    if (launch_us != 0)
        nanosleep(&t, NULL);
    if (gx == 1) /* nothing at all: what a call costs */
        return CUDA_SUCCESS;
    return run(s, gx * 1000ull);
}

CUresult cuLaunchCooperativeKernelMultiDevice(CUDA_LAUNCH_PARAMS *one, unsigned int n,
                                              unsigned int flags)
{
    return cuLaunchKernel(one->function, one->gridDimX, 1, 1, 1, 1, 1, 0, one->hStream, NULL, NULL);
}

/* Whoever wants names gives them as handles. */
CUresult cuFuncGetName(const char **name, CUfunction f)
{
    *name = (const char *)f;
    return CUDA_SUCCESS;
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream s)
{
    return run(s, bytes * 1000 / 1024);
}

CUresult cuEventCreate(CUevent *e, unsigned int flags)
{
    *e = calloc(1, sizeof(struct event));
    return CUDA_SUCCESS;
}

CUresult cuEventRecord(CUevent e, CUstream s)
{
    if (stream_of(s)->capturing)
        abort(); /* what no gate may ever do */
    pthread_mutex_lock(&lock);
    uint64_t end = stream_of(s)->end_ns, now = now_ns();
    ((struct event *)e)->at_ns = end > now ? end : now;
    events_recorded++;
    pthread_mutex_unlock(&lock);
    return CUDA_SUCCESS;
}

CUresult cuEventQuery(CUevent e)
{
    return now_ns() >= ((struct event *)e)->at_ns ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult cuEventElapsedTime(float *ms, CUevent a, CUevent b)
{
    *ms = (float)((double)((struct event *)b)->at_ns - (double)((struct event *)a)->at_ns) / 1e6f;
    return CUDA_SUCCESS;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Host functions of the program run on a thread of the driver, and the stream waits for them: a
 * gate that held one back would wait for itself. So they run as if inside the driver.
 */
#include <stddef.h>
#include <stdlib.h>

#include "src/shim/entry/entry.h"
#include "src/shim/gate/memory.h"

struct callback { /* freed by the one run */
    CUhostFn host;
    CUstreamCallback stream;
    void *data;
};

static void run_host(void *arg)
{
    struct callback c = *(struct callback *)arg;
    free(arg);
    harp_enter();
    c.host(c.data);
    harp_leave();
}

static void run_stream(CUstream hStream, CUresult status, void *arg)
{
    struct callback c = *(struct callback *)arg;
    free(arg);
    harp_enter();
    c.stream(hStream, status, c.data);
    harp_leave();
}

/* NULL: leave the call as it is. A captured one may run many times, or never. */
static struct callback *wrap(CUstream stream, bool function)
{
    CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
    if (harp_inside() || !function)
        return NULL;
    if (HARP_HAS(cuStreamIsCapturing) &&
        (HARP_REAL(cuStreamIsCapturing)(stream, &status) != CUDA_SUCCESS ||
         status != CU_STREAM_CAPTURE_STATUS_NONE))
        return NULL;
    return calloc(1, sizeof(struct callback));
}

static CUstream own(CUstream stream)
{
    return stream != NULL ? stream : CU_STREAM_PER_THREAD;
}

typedef CUresult (*host_fn)(CUstream, CUhostFn, void *);
typedef CUresult (*stream_fn)(CUstream, CUstreamCallback, void *, unsigned int);

static CUresult launch(host_fn real, CUstream hStream, CUstream on, CUhostFn fn, void *userData)
{
    struct callback *c = wrap(on, fn != NULL);
    if (c == NULL)
        return real(hStream, fn, userData);
    c->host = fn;
    c->data = userData;
    CUresult r = real(hStream, run_host, c);
    if (r != CUDA_SUCCESS)
        free(c);
    return r;
}

static CUresult add(stream_fn real, CUstream hStream, CUstream on, CUstreamCallback callback,
                    void *userData, unsigned int flags)
{
    struct callback *c = wrap(on, callback != NULL);
    if (c == NULL)
        return real(hStream, callback, userData, flags);
    c->stream = callback;
    c->data = userData;
    CUresult r = real(hStream, run_stream, c, flags);
    if (r != CUDA_SUCCESS)
        free(c);
    return r;
}

CUresult harp_hook_cuLaunchHostFunc(CUstream hStream, CUhostFn fn, void *userData)
{
    return launch(HARP_REAL(cuLaunchHostFunc), hStream, hStream, fn, userData);
}

CUresult harp_hook_cuLaunchHostFunc_ptsz(CUstream hStream, CUhostFn fn, void *userData)
{
    return launch(HARP_REAL(cuLaunchHostFunc_ptsz), hStream, own(hStream), fn, userData);
}

CUresult harp_hook_cuStreamAddCallback(CUstream hStream, CUstreamCallback callback, void *userData,
                                       unsigned int flags)
{
    return add(HARP_REAL(cuStreamAddCallback), hStream, hStream, callback, userData, flags);
}

CUresult harp_hook_cuStreamAddCallback_ptsz(CUstream hStream, CUstreamCallback callback,
                                            void *userData, unsigned int flags)
{
    return add(HARP_REAL(cuStreamAddCallback_ptsz), hStream, own(hStream), callback, userData,
               flags);
}

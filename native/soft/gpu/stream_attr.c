/* SPDX-License-Identifier: Apache-2.0
 *
 * Attributes of streams. Priority orders what waits for the compute engine; the rest are hints
 * that mean nothing here, but are checked, kept and told.
 */
#include "soft/gpu/context.h"

int soft_priority_clamp(int priority)
{
    if (priority > SOFT_PRIORITY_LEAST)
        return SOFT_PRIORITY_LEAST;
    return priority < SOFT_PRIORITY_GREATEST ? SOFT_PRIORITY_GREATEST : priority;
}

bool soft_window_fits(const CUaccessPolicyWindow *window)
{
    return window->hitRatio >= 0 && window->hitRatio <= 1 &&
           (unsigned)window->hitProp <= CU_ACCESS_PROPERTY_PERSISTING &&
           (unsigned)window->missProp <= CU_ACCESS_PROPERTY_STREAMING &&
           (window->num_bytes == 0 || window->base_ptr != NULL);
}

CUresult cuStreamGetAttribute(CUstream hStream, CUstreamAttrID attr, CUstreamAttrValue *value)
{
    struct soft_stream *s;
    CUresult r = soft_stream_enter(hStream, &s);

    if (r != CUDA_SUCCESS)
        return r;
    if (value == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&s->lock);
    switch ((int)attr) {
    case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
        value->accessPolicyWindow = s->attributes.window;
        break;
    case CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY:
        value->syncPolicy = s->attributes.policy;
        break;
    case CU_LAUNCH_ATTRIBUTE_PRIORITY:
        value->priority = atomic_load(&s->priority);
        break;
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP:
        value->memSyncDomainMap = s->attributes.domains;
        break;
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN:
        value->memSyncDomain = s->attributes.domain;
        break;
    default:
        r = CUDA_ERROR_INVALID_VALUE;
    }
    pthread_mutex_unlock(&s->lock);
    return r;
}

/* With the stream's lock held. */
static CUresult set(struct soft_stream *s, CUstreamAttrID attr, const CUstreamAttrValue *value)
{
    switch ((int)attr) {
    case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
        if (!soft_window_fits(&value->accessPolicyWindow))
            return CUDA_ERROR_INVALID_VALUE;
        s->attributes.window = value->accessPolicyWindow;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY:
        if (value->syncPolicy < CU_SYNC_POLICY_AUTO ||
            value->syncPolicy > CU_SYNC_POLICY_BLOCKING_SYNC)
            return CUDA_ERROR_INVALID_VALUE;
        s->attributes.policy = value->syncPolicy;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_PRIORITY:
        /* of what is submitted from now on */
        atomic_store(&s->priority, soft_priority_clamp(value->priority));
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP:
        /* there is one domain: MEM_SYNC_DOMAIN_COUNT */
        if (value->memSyncDomainMap.default_ != 0 || value->memSyncDomainMap.remote != 0)
            return CUDA_ERROR_INVALID_VALUE;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN:
        if ((unsigned)value->memSyncDomain > CU_LAUNCH_MEM_SYNC_DOMAIN_REMOTE)
            return CUDA_ERROR_INVALID_VALUE;
        s->attributes.domain = value->memSyncDomain;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult cuStreamSetAttribute(CUstream hStream, CUstreamAttrID attr, const CUstreamAttrValue *param)
{
    struct soft_stream *s;
    CUresult r = soft_stream_enter(hStream, &s);

    if (r != CUDA_SUCCESS)
        return r;
    if (param == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&s->lock);
    r = set(s, attr, param);
    pthread_mutex_unlock(&s->lock);
    return r;
}

/* Both must be of one context; the priority is the stream's own and stays. */
CUresult cuStreamCopyAttributes(CUstream dstStream, CUstream srcStream)
{
    struct soft_stream *from, *to;
    struct soft_stream_attributes attributes;
    CUresult r = soft_stream_enter(srcStream, &from);

    if (r == CUDA_SUCCESS)
        r = soft_stream_enter(dstStream, &to);
    if (r != CUDA_SUCCESS)
        return r;
    if (from->ctx != to->ctx)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&from->lock);
    attributes = from->attributes;
    pthread_mutex_unlock(&from->lock);
    pthread_mutex_lock(&to->lock);
    to->attributes = attributes;
    pthread_mutex_unlock(&to->lock);
    return CUDA_SUCCESS;
}

CUresult cuStreamGetCtx_v2(CUstream hStream, CUcontext *pCtx, CUgreenCtx *pGreenCtx)
{
    struct soft_stream *s;
    CUresult r = soft_stream_enter(hStream, &s);

    if (r != CUDA_SUCCESS)
        return r;
    if (pCtx == NULL || pGreenCtx == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *pCtx = soft_ctx_handle(s->ctx);
    *pGreenCtx = NULL; /* there are none */
    return CUDA_SUCCESS;
}

CUresult cuStreamDestroy(CUstream hStream)
{
    return cuStreamDestroy_v2(hStream);
}

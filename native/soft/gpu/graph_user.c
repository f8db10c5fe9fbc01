/* SPDX-License-Identifier: Apache-2.0
 *
 * User objects: the client's resources with a count, which graphs, executable graphs and launches
 * hold references to. The destructor is called once, when the last reference goes. That may happen
 * on a stream's thread or inside any call, so it runs on a thread of its own, which lives as long
 * as there is something to destroy; CUDA calls in it are refused (800), as in host functions.
 */
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "soft/gpu/context.h"
#include "soft/gpu/graph.h"

struct soft_user {
    void *ptr;
    CUhostFn destroy;
    uint64_t refs;          /* guarded by user_lock */
    struct soft_user *next; /* of the dead */
};

static pthread_mutex_t user_lock = PTHREAD_MUTEX_INITIALIZER; /* guards all counts and below */
static struct soft_user *dead, **dead_tail = &dead;
static bool undertaker; /* its thread runs */

static void *bury(void *unused)
{
    struct soft_thread *t = soft_thread();
    if (t != NULL)
        t->in_callback = true;
    pthread_mutex_lock(&user_lock);
    while (dead != NULL) {
        struct soft_user *user = dead;
        dead = user->next;
        if (dead == NULL)
            dead_tail = &dead;
        pthread_mutex_unlock(&user_lock);
        user->destroy(user->ptr);
        free(user);
        pthread_mutex_lock(&user_lock);
    }
    undertaker = false;
    pthread_mutex_unlock(&user_lock);
    return NULL;
}

/* With user_lock held. Without a thread they wait for the next that dies. */
static void call_undertaker(void)
{
    sigset_t all, before;
    pthread_t thread;
    if (undertaker || atomic_load(&soft_ending))
        return;
    sigfillset(&all); /* the client's signals are the client's threads' */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    undertaker = pthread_create(&thread, NULL, bury, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (undertaker)
        pthread_detach(thread);
}

static struct soft_user *user_of(CUuserObject handle)
{
    return soft_handle_is(SOFT_H_USER_OBJECT, handle) ? (struct soft_user *)handle : NULL;
}

static void give_back(struct soft_user *user, uint64_t count)
{
    pthread_mutex_lock(&user_lock);
    user->refs -= count;
    if (user->refs == 0) {
        soft_handle_remove(SOFT_H_USER_OBJECT, user);
        user->next = NULL;
        *dead_tail = user;
        dead_tail = &user->next;
        call_undertaker();
    }
    pthread_mutex_unlock(&user_lock);
}

static void take(struct soft_user *user, uint64_t count)
{
    pthread_mutex_lock(&user_lock);
    user->refs += count;
    pthread_mutex_unlock(&user_lock);
}

CUresult soft_users_copy(const struct soft_users *from, struct soft_users *to)
{
    if (from->count == 0)
        return CUDA_SUCCESS;
    to->refs = calloc(from->count, sizeof *to->refs);
    if (to->refs == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    memcpy(to->refs, from->refs, from->count * sizeof *to->refs);
    to->count = from->count;
    for (size_t i = 0; i < to->count; i++)
        take(to->refs[i].user, to->refs[i].count);
    return CUDA_SUCCESS;
}

CUresult soft_users_gather(const struct soft_graph *graph, struct soft_users *to)
{
    size_t count = graph->users.count;
    struct soft_user_ref *wider = realloc(to->refs, (to->count + count + 1) * sizeof *wider);
    if (wider == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    to->refs = wider;
    for (size_t i = 0; i < count; i++) {
        take(graph->users.refs[i].user, graph->users.refs[i].count);
        to->refs[to->count++] = graph->users.refs[i];
    }
    CUresult result = CUDA_SUCCESS;
    for (size_t i = 0; result == CUDA_SUCCESS && i < graph->count; i++)
        if (graph->nodes[i]->type == CU_GRAPH_NODE_TYPE_GRAPH)
            result = soft_users_gather(graph->nodes[i]->u.child, to);
    return result;
}

void soft_users_drop(struct soft_users *users)
{
    for (size_t i = 0; i < users->count; i++)
        if (users->refs[i].count > 0)
            give_back(users->refs[i].user, users->refs[i].count);
    free(users->refs);
    *users = (struct soft_users){0};
}

CUresult cuUserObjectCreate(CUuserObject *object_out, void *ptr, CUhostFn destroy,
                            unsigned int initialRefcount, unsigned int flags)
{
    CUresult result = soft_ready();
    if (result != CUDA_SUCCESS)
        return result;
    /* the one flag says that nobody waits for the destructor, and must be given */
    if (object_out == NULL || destroy == NULL || initialRefcount == 0 ||
        initialRefcount > INT_MAX || flags != CU_USER_OBJECT_NO_DESTRUCTOR_SYNC)
        return CUDA_ERROR_INVALID_VALUE;
    struct soft_user *user = calloc(1, sizeof *user);
    if (user == NULL || soft_handle_add(SOFT_H_USER_OBJECT, user) != 0) {
        free(user);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    user->ptr = ptr;
    user->destroy = destroy;
    user->refs = initialRefcount;
    *object_out = (CUuserObject)user;
    return CUDA_SUCCESS;
}

static CUresult enter(CUuserObject object, unsigned count, struct soft_user **user)
{
    CUresult result = soft_ready();
    if (result != CUDA_SUCCESS)
        return result;
    *user = user_of(object);
    return *user == NULL || count == 0 || count > INT_MAX ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult cuUserObjectRetain(CUuserObject object, unsigned int count)
{
    struct soft_user *user;
    CUresult result = enter(object, count, &user);
    if (result == CUDA_SUCCESS)
        take(user, count);
    return result;
}

CUresult cuUserObjectRelease(CUuserObject object, unsigned int count)
{
    struct soft_user *user;
    CUresult result = enter(object, count, &user);
    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&user_lock);
    bool enough = user->refs >= count;
    pthread_mutex_unlock(&user_lock);
    if (!enough)
        return CUDA_ERROR_INVALID_VALUE;
    give_back(user, count);
    return CUDA_SUCCESS;
}

/* The graph's own entry; made if there is none. With soft_graph_lock held. */
static struct soft_user_ref *entry_of(struct soft_graph *graph, struct soft_user *user, bool make)
{
    struct soft_users *users = &graph->users;
    for (size_t i = 0; i < users->count; i++)
        if (users->refs[i].user == user)
            return &users->refs[i];
    if (!make)
        return NULL;
    struct soft_user_ref *wider = realloc(users->refs, (users->count + 1) * sizeof *wider);
    if (wider == NULL)
        return NULL;
    users->refs = wider;
    users->refs[users->count] = (struct soft_user_ref){user, 0};
    return &users->refs[users->count++];
}

CUresult cuGraphRetainUserObject(CUgraph graph, CUuserObject object, unsigned int count,
                                 unsigned int flags)
{
    struct soft_user *user;
    CUresult result = enter(object, count, &user);
    if (result == CUDA_SUCCESS && (flags & ~(unsigned)CU_GRAPH_USER_OBJECT_MOVE) != 0)
        result = CUDA_ERROR_INVALID_VALUE;
    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&soft_graph_lock);
    struct soft_graph *known = soft_graph_of(graph);
    struct soft_user_ref *ref = known != NULL ? entry_of(known, user, true) : NULL;
    if (ref == NULL)
        result = known != NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_ERROR_INVALID_VALUE;
    else
        ref->count += count;
    pthread_mutex_unlock(&soft_graph_lock);
    if (result == CUDA_SUCCESS && (flags & CU_GRAPH_USER_OBJECT_MOVE) == 0)
        take(user, count); /* else the caller's references became the graph's */
    return result;
}

CUresult cuGraphReleaseUserObject(CUgraph graph, CUuserObject object, unsigned int count)
{
    struct soft_user *user;
    CUresult result = enter(object, count, &user);
    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&soft_graph_lock);
    struct soft_graph *known = soft_graph_of(graph);
    struct soft_user_ref *ref = known != NULL ? entry_of(known, user, false) : NULL;
    if (ref == NULL || ref->count < count)
        result = CUDA_ERROR_INVALID_VALUE;
    else if ((ref->count -= count) == 0)
        *ref = known->users.refs[--known->users.count];
    pthread_mutex_unlock(&soft_graph_lock);
    if (result == CUDA_SUCCESS)
        give_back(user, count);
    return result;
}

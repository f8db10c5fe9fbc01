/* SPDX-License-Identifier: Apache-2.0
 *
 * What a handle ends with that a call has answered: said by the call's other parameters, or it is
 * the context that the call was made in. A driver frees it then, and may not look whether it has.
 */
#include <string.h>

#include "src/wire/table.h"
#include "src/worker/handles.h"
#include "src/worker/ranges.h"
#include "src/worker/worker.h"

/* The first parameter of a kind; `out`: that is answered. */
static bool find(const struct harp_wire_call *call, enum harp_handle kind, bool out,
                 uint64_t *value)
{
    const struct harp_wire_program *p = &harp_wire_programs[harp_wire_op(call->op)->program];
    for (unsigned i = 0; i < p->count; i++) {
        const struct harp_wire_field *f = &harp_wire_fields[p->first + i];
        const uint64_t slot = call->args[f->at / 8];
        if (f->item != HARP_WIRE_HANDLE || f->type != kind || slot == 0 ||
            f->hold != (out ? HARP_WIRE_POINTER : HARP_WIRE_VALUE))
            continue;
        if (out)
            memcpy(value, (const void *)(uintptr_t)slot, sizeof *value);
        else
            *value = slot;
        return *value != 0;
    }
    return false;
}

static bool given(const struct harp_wire_call *call, enum harp_handle kind, struct owner *owner)
{
    *owner = (struct owner){.kind = kind};
    return find(call, kind, false, &owner->value);
}

void owner_look(struct lane *lane)
{
    CUcontext context = NULL;
    lane->context = 0;
    if (DRIVER(cuCtxGetCurrent)(&context) == CUDA_SUCCESS)
        lane->context = (uintptr_t)context;
    lane->generation = held_generation(lane->context);
}

static struct owner current(struct lane *lane)
{
    if (lane->generation == 0)
        owner_look(lane);
    return (struct owner){.kind = lane->generation == 0 ? 0 : HARP_HANDLE_CUcontext,
                          .value = lane->generation};
}

/* A library's, as it is loaded in a context. */
static struct owner in_context(struct lane *lane, struct owner owner)
{
    owner.context = current(lane).value;
    return owner;
}

/* With what another one ends. */
static struct owner of_that(const struct owner *other)
{
    struct owner owner = handles_owner(other->kind, other->value);
    if (owner.kind == 0 && other->kind == HARP_HANDLE_CUfunction) /* a kernel is one, too */
        owner = handles_owner(HARP_HANDLE_CUkernel, other->value);
    return owner;
}

static struct owner of_node(const struct harp_wire_call *call)
{
    struct owner o;
    if (given(call, HARP_HANDLE_CUgraph, &o))
        return o;
    if (given(call, HARP_HANDLE_CUgraphNode, &o))
        return of_that(&o);
    o = (struct owner){.kind = HARP_HANDLE_CUgraph}; /* of a stream that is captured */
    return find(call, HARP_HANDLE_CUgraph, true, &o.value) ? o : (struct owner){.kind = 0};
}

struct owner owner_of(struct lane *lane, enum harp_handle kind)
{
    const struct harp_wire_call *call = lane->call;
    struct owner o;
    switch (kind) {
    case HARP_HANDLE_CUgraphNode:
        return of_node(call);
    case HARP_HANDLE_CUgraph: /* of a node's; others are by themselves */
        if (call->op == HARP_OP_cuGraphAddNode || call->op == HARP_OP_cuGraphAddNode_v2
                ? given(call, HARP_HANDLE_CUgraph, &o)
                : given(call, HARP_HANDLE_CUgraphNode, &o))
            return o;
        break;
    case HARP_HANDLE_CUfunction:
        if (given(call, HARP_HANDLE_CUmodule, &o))
            return o;
        if (given(call, HARP_HANDLE_CUkernel, &o))
            return in_context(lane, of_that(&o));
        break;
    case HARP_HANDLE_CUkernel:
        if (given(call, HARP_HANDLE_CUlibrary, &o))
            return o;
        break;
    case HARP_HANDLE_CUmodule:
        if (given(call, HARP_HANDLE_CUlibrary, &o))
            return in_context(lane, o);
        return given(call, HARP_HANDLE_CUfunction, &o) ? of_that(&o) : current(lane);
    case HARP_HANDLE_CUtexref:
    case HARP_HANDLE_CUsurfref:
        return given(call, HARP_HANDLE_CUmodule, &o) ? o : current(lane);
    case HARP_HANDLE_CUarray:
        if (given(call, HARP_HANDLE_CUmipmappedArray, &o) || given(call, HARP_HANDLE_CUarray, &o))
            return o; /* a level, a plane */
        return current(lane);
    case HARP_HANDLE_CUmipmappedArray:
    case HARP_HANDLE_CUstream:
    case HARP_HANDLE_CUevent:
        return current(lane);
    default:
        break;
    }
    return (struct owner){.kind = 0};
}

void owner_drop(struct node *ended, uint64_t then)
{
    struct owner o;
    for (const struct node *n = NULL; (n = handles_next(ended, n, &o)) != NULL;)
        if (o.kind == HARP_HANDLE_CUmodule || o.kind == HARP_HANDLE_CUgraph)
            ranges_owner_ended(o.value, then);
    handles_drop(ended);
}

struct node *owner_take_context(uint64_t generation)
{
    return generation == 0 ? NULL
                           : handles_take_of((struct owner){.kind = HARP_HANDLE_CUcontext,
                                                            .value = generation});
}

void owner_context_ended(uint64_t generation)
{
    ranges_context_ended(generation);
    lease_context_ended(generation);
    owner_drop(owner_take_context(generation), UINT64_MAX);
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Text of the kernel prelude for kernels that call functions of the device's runtime: memory of the
 * device's heap, and barriers of the whole grid. The host does both, on its own stack.
 */
struct heap_call {
    struct thread *T;
    uint64_t value; /* bytes, or an address */
    uint64_t out;
};
static void rt_malloc_main(void *arg)
{
    struct heap_call *c = arg;
    c->out = c->T->L->host->heap_take(c->T->L, c->value);
}
static void rt_free_main(void *arg)
{
    struct heap_call *c = arg;
    c->out = (uint64_t)c->T->L->host->heap_give(c->T->L, c->value);
}
COLD uint64_t rt_malloc(struct thread *T, uint64_t bytes)
{
    struct heap_call call = {T, bytes, 0};
    rt_host(T, rt_malloc_main, &call);
    return call.out;
}
/* What malloc never gave, or has back: undefined on hardware, here an address like any bad one. */
COLD void rt_free(struct thread *T, uint64_t at, const char *where)
{
    struct heap_call call = {T, at, 0};
    if (!at)
        return;
    rt_host(T, rt_free_main, &call);
    if (call.out)
        rt_stop(T, PTX_STOP_ILLEGAL_ADDRESS, at, where);
}

/* Scope 1 is the grid's. A launch that is not cooperative has no barrier of its blocks, and no
 * handle; who goes on regardless is stopped, as by an assertion in NVIDIA's headers. */
#define RT_GRID_HANDLE 0x67726964ull
INLINE uint64_t rt_grid_handle(struct thread *T, uint32_t scope)
{
    return scope == 1 && T->L->flags & PTX_LAUNCH_COOPERATIVE ? RT_GRID_HANDLE : 0;
}
#if RT_FIBERS
static void rt_grid_main(void *arg)
{
    struct heap_call *c = arg;
    c->out = (uint64_t)c->T->L->host->grid_sync(c->T->L);
}
/* All threads of the block, then one of them for all: the others run on when it is back. */
COLD uint32_t rt_grid_sync(struct thread *T, uint64_t handle, const char *where)
{
    struct heap_call call = {T, 0, 0};
    if (handle != RT_GRID_HANDLE || !rt_grid_handle(T, 1))
        rt_stop(T, PTX_STOP_TRAP, 0, where);
    rt_bar_come(T, RT_GRID_BAR, 0, 1, 0, where);
    if (T->grid_round++ != T->S->grid_round)
        return 0;
    T->S->grid_round++;
    rt_host(T, rt_grid_main, &call);
    if (call.out)
        rt_stop(T, (enum ptx_stop)call.out, 0, where);
    return 0;
}
#endif

/* SPDX-License-Identifier: Apache-2.0
 *
 * Text behind every translated kernel: runs one block.
 */
#define ROUND(n, to) (((n) + (to) - 1) & ~(uint64_t)((to) - 1))

#if RT_FIBERS
/* Room for libm, the context switch and, where it may go deep, recursion. */
#define RT_STACK_LEAST (RT_RECURSIVE ? 32768 : 3072)
#define RT_FIXED       (ROUND(sizeof(struct sched), 64) + 192)
#define RT_PER_THREAD  (ROUND(sizeof(struct thread), 64) + ROUND(RT_LOCAL_BYTES, 64))
#else
#define RT_FIXED (ROUND(sizeof(struct sched), 64) + ROUND(RT_LOCAL_BYTES, 64) + 128)
#endif

#if !RT_FIBERS
static void rt_plain(void *arg)
{
    rt_kernel(arg);
}
#endif

static enum ptx_stop rt_run_block(const struct ptx_launch *L, struct ptx_block *B)
{
    struct sched *S = (void *)ROUND((uint64_t)B->scratch, 64);
    unsigned char *at = (unsigned char *)S + ROUND(sizeof(*S), 64);
    const uint32_t threads = L->block[0] * L->block[1] * L->block[2];
    uint64_t sleep = 0;
    if (L->host->poll && L->host->poll(L))
        return PTX_STOP_ABANDONED;
    const uint32_t control = rt_fp_get();
    rt_fp_set(RT_FP_DEFAULT);
#if RT_FIBERS
    memset(S, 0, sizeof(*S));
#endif
    S->threads = threads;
    S->stop = PTX_STOP_DONE;
#if RT_FIBERS
    const uint64_t local = ROUND(RT_LOCAL_BYTES, 64), stack = RT_STACK;
    struct thread *t = S->t = (void *)at;
    unsigned char *locals = at + threads * sizeof(*t), *stacks;
    locals = (void *)ROUND((uint64_t)locals, 64);
    stacks = locals + threads * local;
    for (uint32_t id = 0; id < RT_BARS; id++)
        S->bars[id].all = 1;
    uint32_t i = 0;
    for (uint32_t z = 0; z < L->block[2]; z++)
        for (uint32_t y = 0; y < L->block[1]; y++)
            for (uint32_t x = 0; x < L->block[0]; x++, i++) {
#if RT_ROWS
                if (x % 16 && (x | 15) < L->block[0]) { /* its place is filled when the row parts */
                    t[i].at_once = 1;
                    t[i].state = ST_IN_ROW;
                    t[i].spun = 0;
                    continue;
                }
#endif
                memset(&t[i], 0, sizeof(t[i]));
                t[i].tid[0] = x;
                t[i].tid[1] = y;
                t[i].tid[2] = z;
                t[i].lin = i;
                t[i].local = locals + i * local;
                t[i].local_bytes = RT_LOCAL_BYTES;
                t[i].stack = stacks + i * stack;
                rt_thread_begin(S, &t[i], L, B);
#if RT_ROWS
                t[i].at_once = (x | 15) < L->block[0] ? 16 : 1;
#endif
            }
    rt_enter(&S->leave_sp, rt_schedule, S);
    for (i = 0; i < threads; i += t[i].at_once) {
        B->instructions += t[i].ic;
        B->load_bytes += t[i].lb;
        B->store_bytes += t[i].sb;
        sleep = t[i].sleep > sleep ? t[i].sleep : sleep;
    }
#else
    struct thread one = {.L = L,
                         .B = B,
                         .shared = B->shared,
                         .shared_bytes = B->shared_bytes,
                         .local = at,
                         .local_bytes = RT_LOCAL_BYTES,
                         .poll_at = RT_POLL_EVERY,
                         .S = S};
    S->t = &one;
    rt_enter(&S->leave_sp, rt_plain, &one);
    B->instructions += one.ic;
    B->load_bytes += one.lb;
    B->store_bytes += one.sb;
    sleep = one.in > one.sleep ? one.in : one.sleep; /* RT_NEXT_THREAD keeps the largest in `in` */
#endif
    rt_fp_set(control);
    B->sleep_ns = sleep > B->sleep_ns ? sleep : B->sleep_ns;
    return S->stop;
}

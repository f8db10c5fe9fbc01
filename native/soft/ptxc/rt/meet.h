/* SPDX-License-Identifier: Apache-2.0
 *
 * Text of the kernel prelude, behind fiber.h: barriers in shared memory (mbarrier) and the barrier
 * of a cluster, which here is one block.
 *
 * A barrier object counts arrivals: bits 0-19 still awaited in this phase, 20-39 awaited in each,
 * 40-62 the phase's number, 63 set while it is one. Threads of a block run one at a time.
 */
#define MB_MOST    ((1u << 20) - 1)
#define MB_VALID   (1ull << 63)
#define MB_PHASE   (1ull << 40)
#define MB_EACH(w) ((uint32_t)((w) >> 20) & MB_MOST)

COLD _Noreturn void rt_mb_bad(struct thread *T, const char *where)
{
    rt_stop(T, PTX_STOP_ILLEGAL_INSTRUCTION, 0, where);
}
static __attribute__((noinline, unused)) void rt_mb_init(struct thread *T, uint64_t *p,
                                                         uint32_t count, const char *where)
{
    if (!count || count > MB_MOST)
        rt_mb_bad(T, where);
    *p = MB_VALID | (uint64_t)count << 20 | count;
}
/* `drop`: they are awaited in no later phase either. `least`: what must be awaited afterwards. */
static __attribute__((noinline, unused)) uint64_t rt_mb_arrive(struct thread *T, uint64_t *p,
                                                               uint32_t count, int drop,
                                                               uint32_t least, const char *where)
{
    const uint64_t before = *p;
    uint32_t left = (uint32_t)before & MB_MOST, each = MB_EACH(before);
    if (!(before & MB_VALID) || !count || count > left || left - count < least)
        rt_mb_bad(T, where);
    left -= count;
    each -= drop ? count : 0;
    uint64_t phase = before & ~(((uint64_t)1 << 40) - 1);
    if (!left)
        phase = ((phase + MB_PHASE) | MB_VALID), left = each;
    *p = phase | (uint64_t)each << 20 | left;
    return before;
}
static __attribute__((noinline, unused)) void rt_mb_copied(struct thread *T, uint64_t *p,
                                                           uint32_t count, int drop, uint32_t least,
                                                           const char *where)
{
    if (!(*p & MB_VALID))
        rt_mb_bad(T, where);
}
/* Has the phase of `state` ended? */
static __attribute__((noinline, unused)) int rt_mb_test(struct thread *T, uint64_t *p,
                                                        uint64_t state, const char *where)
{
    if (!(*p & MB_VALID))
        rt_mb_bad(T, where);
    return ((*p ^ state) >> 40) != 0;
}
static __attribute__((noinline, unused)) int rt_mb_parity(struct thread *T, uint64_t *p,
                                                          uint32_t parity, const char *where)
{
    if (!(*p & MB_VALID))
        rt_mb_bad(T, where);
    return (*p >> 40 & 1) != (parity & 1);
}
/* try_wait may wait a while: let the others come. */
static __attribute__((noinline, unused)) void rt_mb_pause(struct thread *T)
{
    T->spun = 1;
    rt_yield(T);
}

#define CLUSTER_BARRIER 16 /* as the `id` of who waits there */
static __attribute__((noinline, unused)) void rt_cluster_try(struct sched *S)
{
    if (!S->cluster_arrived || S->cluster_arrived + S->done < S->threads)
        return;
    S->cluster_arrived = 0;
    S->cluster_phase++;
    for (uint32_t i = 0; i < S->threads; i++)
        if (S->t[i].state == ST_BAR && S->t[i].id == CLUSTER_BARRIER)
            S->t[i].state = ST_READY;
}
static __attribute__((noinline, unused)) void rt_cluster_arrive(struct thread *T, const char *where)
{
    if (T->cluster_pending)
        rt_stop(T, PTX_STOP_ILLEGAL_INSTRUCTION, 0, where);
    T->cluster_pending = 1;
    T->cluster_phase = T->S->cluster_phase;
    T->S->cluster_arrived++;
    rt_cluster_try(T->S);
}
static __attribute__((noinline, unused)) void rt_cluster_wait(struct thread *T, const char *where)
{
    if (!T->cluster_pending)
        rt_stop(T, PTX_STOP_ILLEGAL_INSTRUCTION, 0, where);
    T->cluster_pending = 0;
    while (T->cluster_phase == T->S->cluster_phase) {
        T->id = CLUSTER_BARRIER;
        T->where = where;
        T->state = ST_BAR;
        rt_yield(T);
    }
}

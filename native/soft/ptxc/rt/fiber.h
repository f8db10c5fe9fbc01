/* SPDX-License-Identifier: Apache-2.0
 *
 * Text of the kernel prelude for kernels whose threads meet (barriers, warp instructions, polling):
 * every thread is a fiber with its own small stack and runs until it must wait.
 *
 * (1) Threads run one at a time: shared memory and everything here needs no lock.
 * (2) A warp instruction happens when the last live lane of its mask has come; the lanes must have
 *     come to the same instruction kind with the same mask.
 * (3) If nobody can run and somebody waits, hardware would hang; here the block stops.
 */
enum { ST_READY, ST_WARP, ST_BAR, ST_GROUP, ST_DONE, ST_IN_ROW };
enum {
    OP_SYNC,
    OP_UP,
    OP_DOWN,
    OP_BFLY,
    OP_IDX,
    OP_ALL,
    OP_ANY,
    OP_UNI,
    OP_BALLOT,
    OP_MATCH_ANY,
    OP_MATCH_ALL,
    OP_ADD,
    OP_MIN_U,
    OP_MIN_S,
    OP_MAX_U,
    OP_MAX_S,
    OP_AND,
    OP_OR,
    OP_XOR,
    OP_ELECT,
    OP_MMA,
};

/* {bytes of a fiber's stack, its least value, scratch per thread without it, margin of the check};
 * the first and last are written into the compiled file. */
extern const volatile uint64_t harp_stack[4] __attribute__((visibility("hidden")));
#define RT_STACK harp_stack[0]
#define RT_STACK_CHECK(where)                                                                      \
    do {                                                                                           \
        if (UNLIKELY((unsigned char *)__builtin_frame_address(0) < T->stack + harp_stack[3]))      \
            rt_stop(T, PTX_STOP_STACK, 0, (where));                                                \
    } while (0)

/* Everything but its place in the block, which T has. */
INLINE void rt_thread_begin(struct sched *S, struct thread *T, const struct ptx_launch *L,
                            struct ptx_block *B)
{
    T->L = L;
    T->B = B;
    T->S = S;
    T->shared = B->shared;
    T->shared_bytes = B->shared_bytes;
    T->at_once = 1;
    T->poll_at = RT_POLL_EVERY;
    *(uint64_t *)T->stack = STACK_MAGIC;
}

#if RT_WARPS
/* ------------------------------------------------------------------------ warp instructions --- */

struct mma {
    int k, in, f16_out; /* in: 0 f16, 1 bf16, 2 tf32 */
    uint32_t a[4], b[2], c[4], d[4];
};

static float mma_half(uint32_t v, int i, int bf16)
{
    uint16_t h = (uint16_t)(v >> (16 * i));
    return bf16 ? bf16_load(h) : f16_load(h);
}
/* Lane l of a warp holds, of A (16 x k), rows l/4 and l/4+8; of B (k x 8), column l/4; of C and D
 * (16 x 8), rows l/4 and l/4+8, columns l%4*2 and the next. */
static void rt_mma(struct thread *w)
{
    float A[16][16], B[16][8];
    const struct mma *first = w[0].lanes;
    int k = first->k, in = first->in;
    for (int l = 0; l < 32; l++) {
        const struct mma *m = w[l].lanes;
        int row = l >> 2, col = (l & 3) * 2;
        for (int i = 0; in == 2 && i < k / 2; i++)
            A[row + 8 * (i & 1)][(l & 3) + 4 * (i >> 1)] = asf32(m->a[i] & 0xffffe000);
        for (int i = 0; in == 2 && i < k / 4; i++)
            B[(l & 3) + 4 * i][row] = asf32(m->b[i] & 0xffffe000);
        for (int i = 0; in < 2 && i < k / 2; i++)
            A[row + 8 * (i >> 1 & 1)][col + (i & 1) + 8 * (i >> 2)] =
                mma_half(m->a[i >> 1], i & 1, in);
        for (int i = 0; in < 2 && i < k / 4; i++)
            B[col + (i & 1) + 8 * (i >> 1)][row] = mma_half(m->b[i >> 1], i & 1, in);
    }
    for (int l = 0; l < 32; l++) {
        struct mma *m = w[l].lanes;
        for (int i = 0; i < 4; i++) {
            int row = (l >> 2) + 8 * (i >> 1), col = (l & 3) * 2 + (i & 1);
            float s = 0;
            for (int x = 0; x < k; x++)
                s += A[row][x] * B[x][col];
            if (m->f16_out) {
                s += f16_load((uint16_t)(m->c[i >> 1] >> (16 * (i & 1))));
                uint32_t h = f16_store(s);
                m->d[i >> 1] = i & 1 ? m->d[i >> 1] | h << 16 : h;
            } else {
                m->d[i] = asu32(asf32(m->c[i]) + s);
            }
        }
    }
}

static void rt_exchange(struct thread *w, uint32_t need, uint32_t op)
{
    uint32_t ballot = 0, lowest = (uint32_t)__builtin_ctz(need), acc = 0;
    int all_same = 1, started = 0;
    if (op == OP_MMA) {
        rt_mma(w);
        return;
    }
    for (uint32_t l = 0; l < 32; l++) {
        if (!(need >> l & 1))
            continue;
        uint32_t v = (uint32_t)w[l].in;
        ballot |= (v & 1) << l;
        all_same &= w[l].in == w[lowest].in;
        if (!started) {
            acc = v;
        } else {
            switch (op) {
            case OP_ADD:
                acc += v;
                break;
            case OP_MIN_U:
                acc = v < acc ? v : acc;
                break;
            case OP_MAX_U:
                acc = v > acc ? v : acc;
                break;
            case OP_MIN_S:
                acc = (int32_t)v < (int32_t)acc ? v : acc;
                break;
            case OP_MAX_S:
                acc = (int32_t)v > (int32_t)acc ? v : acc;
                break;
            case OP_AND:
                acc &= v;
                break;
            case OP_OR:
                acc |= v;
                break;
            case OP_XOR:
                acc ^= v;
                break;
            }
        }
        started = 1;
    }
    for (uint32_t l = 0; l < 32; l++) {
        struct thread *t = &w[l];
        if (!(need >> l & 1))
            continue;
        switch (op) {
        case OP_UP:
        case OP_DOWN:
        case OP_BFLY:
        case OP_IDX: {
            int b = t->arg & 31, c = t->arg2 & 31, seg = t->arg2 >> 8 & 31, lane = (int)l;
            int high = (lane & seg) | (c & ~seg & 31), low = lane & seg;
            int j = op == OP_UP     ? lane - b
                    : op == OP_DOWN ? lane + b
                    : op == OP_BFLY ? lane ^ b
                                    : low | (b & ~seg);
            int good = op == OP_UP ? j >= high : j <= high;
            if (!good)
                j = lane;
            t->out_pred = (uint32_t)good;
            /* A lane that takes no part has no value to give. */
            t->out = need >> (j & 31) & 1 ? w[j & 31].in : 0;
            break;
        }
        case OP_ALL:
            t->out = ballot == need;
            break;
        case OP_ANY:
            t->out = ballot != 0;
            break;
        case OP_UNI:
            t->out = ballot == 0 || ballot == need;
            break;
        case OP_BALLOT:
            t->out = ballot;
            break;
        case OP_MATCH_ANY:
            t->out = 0;
            for (uint32_t k = 0; k < 32; k++)
                if (need >> k & 1 && w[k].in == t->in)
                    t->out |= 1u << k;
            break;
        case OP_MATCH_ALL:
            t->out = all_same ? need : 0;
            t->out_pred = (uint32_t)all_same;
            break;
        case OP_ELECT:
            t->out = lowest;
            t->out_pred = l == lowest;
            break;
        default:
            t->out = acc;
        }
    }
}

/* True if the warp instruction that T waits in could happen, and has. */
static int rt_warp_try(struct thread *T)
{
    struct sched *S = T->S;
    uint32_t warp = T->lin >> 5;
    struct thread *w = &S->t[warp << 5];
    uint32_t left = S->threads - (warp << 5);
    uint32_t need = T->mask & (left >= 32 ? ~0u : (1u << left) - 1) & ~S->warp_done[warp];
    if ((S->warp_wait[warp] & need) != need)
        return 0;
    for (uint32_t l = 0; l < 32; l++)
        if (need >> l & 1 && (w[l].op != T->op || w[l].mask != T->mask || w[l].id != T->id))
            return 0;
    if (T->op == OP_MMA && need != ~0u)
        rt_stop(T, PTX_STOP_ILLEGAL_INSTRUCTION, 0, T->where);
    rt_exchange(w, need, T->op);
    for (uint32_t l = 0; l < 32; l++)
        if (need >> l & 1)
            w[l].state = ST_READY;
    S->warp_wait[warp] &= ~need;
    return 1;
}

/* `id` tells apart what must not be mixed: the modes of one kind of instruction. */
static void rt_warp(struct thread *T, uint32_t op, uint32_t mask, uint32_t id, const char *where)
{
    uint32_t lane = T->lin & 31;
    if (!(mask >> lane & 1))
        rt_stop(T, PTX_STOP_ILLEGAL_INSTRUCTION, 0, where);
    T->op = op;
    T->mask = mask;
    T->id = id;
    T->where = where;
    T->state = ST_WARP;
    T->S->warp_wait[T->lin >> 5] |= 1u << lane;
    if (!rt_warp_try(T))
        rt_yield(T);
}
INLINE uint64_t rt_warp1(struct thread *T, uint32_t op, uint32_t mask, uint64_t in,
                         const char *where)
{
    T->in = in;
    rt_warp(T, op, mask, 0, where);
    return T->out;
}
INLINE uint32_t rt_shfl(struct thread *T, uint32_t op, uint32_t mask, uint32_t in, uint32_t b,
                        uint32_t c, const char *where)
{
    T->arg = (int32_t)b;
    T->arg2 = (int32_t)c;
    return (uint32_t)rt_warp1(T, op, mask, in, where);
}
static uint32_t rt_activemask(struct thread *T, uint32_t site, const char *where)
{
    T->state = ST_GROUP;
    T->id = site;
    T->where = where;
    rt_yield(T);
    return (uint32_t)T->out;
}

#endif

/* ------------------------------------------------------------------------------ barriers ------ */

/* T waits. Its neighbour, if that can run, is gone on with: it would be the scheduler's next,
 * unless lanes of a warp are to meet first. */
INLINE void rt_wait(struct thread *T)
{
#if !RT_WARPS
    struct thread *next = T + T->at_once;
    if (LIKELY(next < T->S->t + T->S->threads && next->state == ST_READY && !next->spun &&
               next->sp)) {
        rt_stack_look(T);
        rt_switch(&T->sp, next->sp);
        return;
    }
#endif
    rt_yield(T);
}

static __attribute__((noinline)) void rt_bar_open(struct sched *S, uint32_t id)
{
    struct barrier *b = &S->bars[id];
    const uint32_t pop = b->pop, preds = b->all | b->any << 1;
    uint32_t waiting = b->waiting;
    const struct thread *end = S->t + S->threads;
    for (struct thread *t = S->t; waiting && t < end; t += t->at_once) {
        if (t->state != ST_BAR || t->id != id)
            continue;
        t->out = pop;
        t->out_pred = preds;
        t->state = ST_READY;
        waiting--;
    }
    *b = (struct barrier){.all = 1};
}
INLINE void rt_bar_try(struct sched *S, uint32_t id)
{
    const struct barrier *b = &S->bars[id];
    const uint32_t all = b->expected == 0;
    if (b->arrived && b->arrived + (all ? S->done : 0) >= (all ? S->threads : b->expected))
        rt_bar_open(S, id);
}
/* count 0: all threads of the block that have not ended. */
static void rt_bar_come(struct thread *T, uint32_t id, uint32_t count, int wait, int pred,
                        const char *where)
{
    struct sched *S = T->S;
    struct barrier *b = &S->bars[id];
    b->expected = count;
    b->arrived += T->at_once;
    b->pop += pred != 0;
    b->all &= pred != 0;
    b->any |= pred != 0;
    T->where = where;
    if (wait) {
        T->id = id;
        T->state = ST_BAR;
        b->waiting++;
    }
    rt_bar_try(S, id);
    if (T->state == ST_BAR)
        rt_wait(T);
}
static void rt_bar(struct thread *T, uint32_t id, uint32_t count, int wait, int pred,
                   const char *where)
{
    const struct barrier *bars = T->S->bars;
    if (id >= RT_GRID_BAR || count % 32 ||
        (count && bars[id].arrived && count != bars[id].expected))
        rt_stop(T, PTX_STOP_ILLEGAL_INSTRUCTION, 0, where);
    rt_bar_come(T, id, count, wait, pred, where);
}

/* ----------------------------------------------------------------------------- scheduler ------ */
#ifdef RT_CLUSTER
static void rt_cluster_try(struct sched *S);
#endif

static void rt_kernel(struct thread *T);

/* The thread ends, wherever it stands. */
static _Noreturn void rt_exit(struct thread *T)
{
    struct sched *S = T->S;
    uint32_t warp = T->lin >> 5;
    T->state = ST_DONE;
    S->done += T->at_once;
    S->warp_done[warp] |= 1u << (T->lin & 31);
#if RT_WARPS
    /* It may have been the last that others wait for. */
    for (uint32_t wait = S->warp_wait[warp]; wait;) {
        uint32_t l = (uint32_t)__builtin_ctz(wait);
        struct thread *t = &S->t[(warp << 5) + l];
        wait &= ~(1u << l);
        if (rt_warp_try(t))
            wait = S->warp_wait[warp];
    }
#endif
    for (uint32_t id = 0; id < RT_BARS; id++)
        rt_bar_try(S, id);
#ifdef RT_CLUSTER
    if (T->cluster_pending && T->cluster_phase == S->cluster_phase)
        S->cluster_arrived--; /* it counts among those that have ended */
    rt_cluster_try(S);
#endif
    rt_yield(T);
    __builtin_trap();
}

static void rt_fiber(void *arg)
{
    rt_kernel(arg);
    rt_exit(arg);
}

static void rt_resume(struct sched *S, struct thread *t)
{
    if (!t->sp)
        rt_start(&S->main_sp, t->stack + RT_STACK, rt_fiber, t);
    else
        rt_switch(&S->main_sp, t->sp);
    while (S->call) {
        void (*call)(void *) = S->call;
        S->call = NULL;
        call(S->call_arg);
        rt_switch(&S->main_sp, S->caller->sp);
    }
}

#if RT_WARPS
/* Lanes that wait at the same activemask are converged. */
static int rt_group(struct sched *S, uint32_t from, uint32_t to)
{
    int any = 0;
    for (uint32_t i = from; i < to; i++) {
        uint32_t mask = 0, site = S->t[i].id;
        if (S->t[i].state != ST_GROUP)
            continue;
        for (uint32_t k = i; k < to; k++)
            if (S->t[k].state == ST_GROUP && S->t[k].id == site)
                mask |= 1u << (k & 31);
        for (uint32_t k = i; k < to; k++)
            if (mask >> (k & 31) & 1) {
                S->t[k].out = mask;
                S->t[k].state = ST_READY;
            }
        any = 1;
    }
    return any;
}
#else
#define rt_group(S, from, to) 0
#endif

static void rt_schedule(void *arg)
{
    struct sched *S = arg;
    const struct ptx_launch *L = S->t[0].L;
    while (S->done < S->threads) {
        int ran = 0;
        for (uint32_t from = 0; from < S->threads; from += 32) {
            uint32_t to = from + 32 < S->threads ? from + 32 : S->threads;
            /* All lanes as far as they can go, so that those at one activemask meet there. */
            for (int again = 1; again;) {
                again = 0;
                for (uint32_t i = from; i < to; i += S->t[i].at_once)
                    if (S->t[i].state == ST_READY && !S->t[i].spun) {
                        rt_resume(S, &S->t[i]);
                        again = ran = 1;
                    }
            }
            for (uint32_t i = from; i < to; i += S->t[i].at_once) {
                ran |= S->t[i].spun;
                S->t[i].spun = 0;
            }
            ran |= rt_group(S, from, to);
        }
        if (!ran) {
            for (uint32_t i = 0; i < S->threads; i += S->t[i].at_once)
                if (S->t[i].state != ST_DONE && S->t[i].state != ST_IN_ROW)
                    rt_stop(&S->t[i], PTX_STOP_TRAP, 0, S->t[i].where);
        }
        if (S->want_poll) {
            const int why = S->want_poll;
            S->want_poll = 0;
            if (L->host->poll && L->host->poll(L))
                rt_stop(&S->t[0], PTX_STOP_ABANDONED, 0, NULL);
            if (why & RT_SPUN && L->host->spins)
                L->host->spins(L);
        }
    }
}

/* Back edges of loops that watch memory or the clock: let the others make progress. */
#define RT_SPIN                                                                                    \
    do {                                                                                           \
        if ((++spin & 3) == 0) {                                                                   \
            T->S->want_poll |= (spin & 255) == 0 ? RT_SPUN : 0;                                    \
            T->spun = 1;                                                                           \
            rt_yield(T);                                                                           \
        }                                                                                          \
    } while (0)

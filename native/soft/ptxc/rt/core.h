/* SPDX-License-Identifier: Apache-2.0
 *
 * Text that harp-ptxc puts before every translated kernel (after switch.h): the thread, memory and
 * the ways out. Freestanding: no libc, no libm, no libgcc.
 */
/* Generic addresses of the spaces that have no device address. Non-canonical on x86-64 and
 * aarch64: no host pointer and no arena address lies here. The low 32 bits are the offset. */
#define SHARED_WINDOW 0x0100000000000000ull
#define LOCAL_WINDOW  0x0200000000000000ull
#define PARAM_WINDOW  0x0300000000000000ull
#define WINDOW_OF(a)  ((a) & 0xffffffff00000000ull)

struct sched;

/* One PTX thread. */
struct thread {
    const struct ptx_launch *L;
    struct ptx_block *B;
    unsigned char *shared;
    uint32_t shared_bytes;
    uint32_t tid[3];
    uint32_t lin;        /* linear index in the block */
    uint64_t sleep;      /* its own virtual nanosleep */
    uint64_t ic, lb, sb; /* instructions, bytes loaded, bytes stored */
    uint64_t poll_at;    /* `ic` at which the host is asked next */
    unsigned char *local;
    uint32_t local_used, local_bytes;
    uint32_t cluster_pending, cluster_phase;
    uint32_t grid_round; /* barriers of the grid that it has passed */
    struct sched *S;
    /* fibers */
    void *sp;
    unsigned char *stack; /* lowest address */
    uint32_t state, op, id, mask;
    uint32_t spun; /* gave way while it polls: others first */
    int32_t arg, arg2;
    uint64_t in, out;
    uint32_t out_pred;
    uint32_t at_once; /* 16: a row of threads (rt/rows.h), the first of which this is */
    uint32_t entry, started;
    struct thread *first; /* of the row that this one was in */
    const void *rows;     /* its registers there */
    void *lanes;          /* operands of matrix instructions */
    const char *where;
};

/* Barriers of a block: a kernel's sixteen, and where it waits for the grid. */
enum { RT_GRID_BAR = 16, RT_BARS };
#define RT_SPUN 2

/* What all threads of one block share. */
struct sched {
    void *leave_sp; /* of run_block: where a stopped block goes */
    void *main_sp;  /* of the scheduler, while a fiber runs */
    void (*call)(void *);
    void *call_arg;        /* a call to make on the scheduler's stack: a fiber's is small */
    struct thread *caller; /* who goes on then */
    enum ptx_stop stop;
    uint32_t threads, done;
    int want_poll; /* 1; RT_SPUN too: a thread of it waits in a loop */
    struct thread *t;
    struct barrier {
        uint32_t expected, arrived, waiting, pop, all, any;
    } bars[RT_BARS];
    uint32_t warp_wait[32], warp_done[32];
    uint32_t cluster_arrived, cluster_phase;
    uint32_t grid_round; /* barriers of the grid that the block has passed */
};

union bits32 {
    uint32_t u;
    float f;
};
union bits64 {
    uint64_t u;
    double f;
};
INLINE float asf32(uint32_t u)
{
    return ((union bits32){.u = u}).f;
}
INLINE uint32_t asu32(float f)
{
    return ((union bits32){.f = f}).u;
}
INLINE double asf64(uint64_t u)
{
    return ((union bits64){.u = u}).f;
}
INLINE uint64_t asu64(double f)
{
    return ((union bits64){.f = f}).u;
}

typedef uint64_t __attribute__((aligned(1), may_alias)) any64;
/* gcc may call these for struct copies even when freestanding. */
__attribute__((visibility("hidden"), used)) void *memcpy(void *restrict to,
                                                         const void *restrict from, size_t n)
{
    unsigned char *t = to;
    const unsigned char *f = from;
    for (; n >= 8; n -= 8, t += 8, f += 8)
        *(any64 *)t = *(const any64 *)f;
    while (n--)
        *t++ = *f++;
    return to;
}
__attribute__((visibility("hidden"), used)) void *memset(void *to, int c, size_t n)
{
    unsigned char *t = to;
    const uint64_t all = (unsigned char)c * 0x0101010101010101ull;
    for (; n >= 8; n -= 8, t += 8)
        *(any64 *)t = all;
    while (n--)
        *t++ = (unsigned char)c;
    return to;
}

/* Ends the block. */
COLD _Noreturn void rt_stop(struct thread *T, enum ptx_stop why, uint64_t addr, const char *where)
{
    T->S->stop = why;
    T->B->fault_addr = addr;
    T->B->fault_where = where;
    rt_leave(T->S->leave_sp);
}

#if RT_FIBERS
#define STACK_MAGIC 0x5afe57ac4b0b0b0bull
INLINE void rt_stack_look(struct thread *T)
{
    if (UNLIKELY(*(uint64_t *)T->stack != STACK_MAGIC))
        rt_stop(T, PTX_STOP_STACK, 0, "kernel: stack");
}
INLINE void rt_yield(struct thread *T)
{
    rt_stack_look(T);
    rt_switch(&T->sp, T->S->main_sp);
}
#endif

INLINE void rt_host(struct thread *T, void (*fn)(void *), void *arg)
{
#if RT_FIBERS
    T->S->call_arg = arg;
    T->S->call = fn;
    T->S->caller = T;
    rt_yield(T);
#else
    fn(arg);
#endif
}

struct translate_call {
    struct thread *T;
    uint64_t a;
    uint32_t n;
    int write;
    void *out;
};
static void rt_translate(void *arg)
{
    struct translate_call *c = arg;
    c->out = c->T->L->host->translate(c->T->L, c->a, c->n, c->write);
}

/* The part of an address check that is not the fast path. */
COLD void *rt_slow(struct thread *T, uint64_t a, uint32_t n, int write, const char *where)
{
    const struct ptx_launch *L = T->L;
    if (a & (n - 1))
        rt_stop(T, PTX_STOP_MISALIGNED, a, where);
    uint64_t window = WINDOW_OF(a), at = (uint32_t)a;
    if (window == SHARED_WINDOW && at + n <= T->shared_bytes)
        return T->shared + at;
    if (window == LOCAL_WINDOW && at + n <= T->local_bytes)
        return T->local + at;
    if (window == PARAM_WINDOW && at + n <= L->params_bytes && !write)
        return (void *)(L->params + at);
    struct translate_call call = {T, a, n, write, NULL};
    if (window != SHARED_WINDOW && window != LOCAL_WINDOW && window != PARAM_WINDOW &&
        L->host->translate)
        rt_host(T, rt_translate, &call);
    if (!call.out)
        rt_stop(T, PTX_STOP_ILLEGAL_ADDRESS, a, where);
    return call.out;
}

/* .global: windows are no global memory. */
COLD void *rt_slow_global(struct thread *T, uint64_t a, uint32_t n, int write, const char *where)
{
    uint64_t window = WINDOW_OF(a);
    if (!(a & (n - 1)) &&
        (window == SHARED_WINDOW || window == LOCAL_WINDOW || window == PARAM_WINDOW))
        rt_stop(T, PTX_STOP_ILLEGAL_ADDRESS, a, where);
    return rt_slow(T, a, n, write, where);
}

COLD _Noreturn void rt_bad(struct thread *T, uint64_t a, uint32_t n, uint64_t window,
                           const char *where)
{
    rt_stop(T, a & (n - 1) ? PTX_STOP_MISALIGNED : PTX_STOP_ILLEGAL_ADDRESS, window | a, where);
}

/* Locals of every translated function: what an address check needs, kept in registers. */
#define RT_LOCALS                                                                                  \
    const uint64_t AB = T->L->arena_base, AN = T->L->arena_bytes;                                  \
    const uint8_t *const AM = T->L->arena_map;                                                     \
    const int64_t AD = T->L->arena_delta;                                                          \
    unsigned char *const SB = T->shared;                                                           \
    const uint32_t SN = T->shared_bytes;                                                           \
    const unsigned char *const PB = T->L->params;                                                  \
    const uint32_t CT0 = T->B->ctaid[0], CT1 = T->B->ctaid[1], CT2 = T->B->ctaid[2];               \
    const uint32_t BD0 = T->L->block[0], BD1 = T->L->block[1], BD2 = T->L->block[2];               \
    uint64_t ic = 0, lb = 0, sb = 0, due = RT_DUE;                                                 \
    uint32_t cc = 0, spin = 0;                                                                     \
    (void)AB, (void)AN, (void)AM, (void)AD, (void)SB, (void)SN, (void)PB, (void)cc, (void)spin,    \
        (void)lb, (void)sb, (void)due, (void)CT0, (void)CT1, (void)CT2, (void)BD0, (void)BD1,      \
        (void)BD2
/* Instructions that may still be counted, from a flush on, before the host is asked. */
#define RT_DUE   (T->poll_at > T->ic ? T->poll_at - T->ic : 0)
#define RT_FLUSH (T->ic += ic, T->lb += lb, T->sb += sb, ic = lb = sb = 0)
/* Instructions between two polls: of a fiber, else of the block, whatever functions count them. */
#define RT_POLL_EVERY (1u << 20)

#define RT_IN_ARENA(a, n, w)                                                                       \
    (((a) - AB) < AN && !((a) & ((n) - 1)) &&                                                      \
     (AM[((a) - AB) >> PTX_PAGE_SHIFT] & ((w) ? PTX_MAP_WRITE : PTX_MAP_READ)))
#if RT_BIG
/* A check with branches at every access makes compilers take minutes over a huge kernel. */
static __attribute__((noinline)) void *rt_global(struct thread *T, uint64_t a, uint32_t n, int w,
                                                 const char *where)
{
    const uint64_t AB = T->L->arena_base, AN = T->L->arena_bytes;
    const uint8_t *const AM = T->L->arena_map;
    return LIKELY(RT_IN_ARENA(a, (uint64_t)n, w)) ? (void *)(a + (uint64_t)T->L->arena_delta)
                                                  : rt_slow_global(T, a, n, w, where);
}
static __attribute__((noinline)) void *rt_generic(struct thread *T, uint64_t a, uint32_t n, int w,
                                                  const char *where)
{
    const uint64_t AB = T->L->arena_base, AN = T->L->arena_bytes;
    const uint8_t *const AM = T->L->arena_map;
    return LIKELY(RT_IN_ARENA(a, (uint64_t)n, w)) ? (void *)(a + (uint64_t)T->L->arena_delta)
                                                  : rt_slow(T, a, n, w, where);
}
#define RT_GLOBAL(a, n, w, where)  rt_global(T, (a), (n), (w), (where))
#define RT_GENERIC(a, n, w, where) rt_generic(T, (a), (n), (w), (where))
#else
#define RT_GLOBAL(a, n, w, where)                                                                  \
    ({                                                                                             \
        const uint64_t a_ = (a);                                                                   \
        LIKELY(RT_IN_ARENA(a_, (uint64_t)(n), (w))) ? (void *)(a_ + (uint64_t)AD)                  \
                                                    : rt_slow_global(T, a_, (n), (w), (where));    \
    })
#define RT_GENERIC(a, n, w, where)                                                                 \
    ({                                                                                             \
        const uint64_t a_ = (a);                                                                   \
        LIKELY(RT_IN_ARENA(a_, (uint64_t)(n), (w))) ? (void *)(a_ + (uint64_t)AD)                  \
                                                    : rt_slow(T, a_, (n), (w), (where));           \
    })
#endif
/* An address may come from a 64-bit register and be negative: the sum alone would wrap. Of one from
 * a 32-bit register compilers see that it cannot. */
#define RT_OUT(a, n, size) ((a) >> 32 || (a) + (n) > (size))
#define RT_SHARED(a, n, where)                                                                     \
    ({                                                                                             \
        const uint64_t a_ = (a);                                                                   \
        if (UNLIKELY(RT_OUT(a_, (n), SN) || (a_ & ((n) - 1))))                                     \
            rt_bad(T, a_, (n), SHARED_WINDOW, (where));                                            \
        (void *)(SB + a_);                                                                         \
    })
#define RT_LOCAL(a, n, where)                                                                      \
    ({                                                                                             \
        const uint64_t a_ = (a);                                                                   \
        if (UNLIKELY(RT_OUT(a_, (n), T->local_bytes) || (a_ & ((n) - 1))))                         \
            rt_bad(T, a_, (n), LOCAL_WINDOW, (where));                                             \
        (void *)(T->local + a_);                                                                   \
    })
#define RT_PARAM(a, n, where)                                                                      \
    ({                                                                                             \
        const uint64_t a_ = (a);                                                                   \
        if (UNLIKELY(RT_OUT(a_, (n), T->L->params_bytes)))                                         \
            rt_bad(T, a_, 1, PARAM_WINDOW, (where));                                               \
        (const void *)(PB + a_);                                                                   \
    })
#define RT_IS_DEVICE(a) ((a) >> 56 == 0)

/* Typed access; memory of the host is little-endian as the device's. */
#define RT_LD(C, p)  (*(const C *)(p))
#define RT_LDV(C, p) (*(const volatile C *)(p))
#define RT_LDP(C, p)                                                                               \
    ({                                                                                             \
        C v_;                                                                                      \
        __builtin_memcpy(&v_, (p), sizeof(v_));                                                    \
        v_;                                                                                        \
    })
#define RT_ST(C, p, v)  (*(C *)(p) = (v))
#define RT_STV(C, p, v) (*(volatile C *)(p) = (v))

/* A polling back edge. */
COLD uint64_t rt_breathe(struct thread *T, uint64_t ic)
{
#if RT_FIBERS
    T->S->want_poll |= 1;
    T->spun = 1;
    rt_yield(T);
#else
    if (T->L->host->poll && T->L->host->poll(T->L))
        rt_stop(T, PTX_STOP_ABANDONED, 0, NULL);
#endif
    T->poll_at = T->ic + ic + RT_POLL_EVERY;
    return ic + RT_POLL_EVERY;
}

/* printf and assert of the device; `format` and `args` are generic addresses. */
struct vprintf_call {
    struct thread *T;
    const char *format;
    const void *args;
    int out;
};
static void rt_vprintf_main(void *arg)
{
    struct vprintf_call *c = arg;
    c->out = c->T->L->host->vprintf(c->T->L, c->format, c->args);
}
/* Host address of a byte of device memory. */
COLD const unsigned char *rt_byte(struct thread *T, uint64_t a, const char *where)
{
    uint64_t AB = T->L->arena_base, AN = T->L->arena_bytes;
    const uint8_t *AM = T->L->arena_map;
    return RT_IN_ARENA(a, 1, 0) ? (void *)(a + (uint64_t)T->L->arena_delta)
                                : rt_slow(T, a, 1, 0, where);
}
COLD int rt_one_of(unsigned char c, const char *set)
{
    for (; *set; set++)
        if ((unsigned char)*set == c)
            return 1;
    return 0;
}
/* Bytes of the argument for the conversion at `*at`, behind its %; 0: not one that is printed. */
COLD uint64_t rt_conversion(const unsigned char **at)
{
    int longs = 0;
    while (rt_one_of(**at, "-+ #0123456789."))
        ++*at;
    for (; rt_one_of(**at, "hlzjt"); ++*at)
        longs |= **at != 'h';
    unsigned char kind = **at;
    if (rt_one_of(kind, "diuxXo"))
        return longs ? 8 : 4;
    return kind == 'c' ? 4 : rt_one_of(kind, "fFeEgGaAps") ? 8 : 0;
}
/* The host reads format and arguments as they stand: every byte of both must be the kernel's. */
COLD uint32_t rt_vprintf(struct thread *T, uint64_t format, uint64_t args, const char *where)
{
    struct vprintf_call call = {T, NULL, NULL, -1};
    call.format = (const char *)rt_byte(T, format, where);
    for (uint64_t i = 1; call.format[i - 1]; i++)
        rt_byte(T, format + i, where);
    uint64_t end = args, bytes;
    for (const unsigned char *at = (const unsigned char *)call.format; *at; at++) {
        if (*at != '%' || (at[1] == '%' && ++at))
            continue;
        at++;
        if ((bytes = rt_conversion(&at)) == 0)
            break;
        for (end = (end + bytes - 1) & ~(bytes - 1); bytes; bytes--)
            rt_byte(T, end++, where);
    }
    if (end != args)
        call.args = rt_byte(T, args, where);
    if (T->L->host->vprintf)
        rt_host(T, rt_vprintf_main, &call);
    return (uint32_t)call.out;
}

/* As printf would be called: file, line, function, block, thread, message. */
COLD _Noreturn void rt_assert(struct thread *T, uint64_t message, uint64_t file, uint32_t line,
                              uint64_t function, const char *where)
{
    static const char format[] =
        "%s:%d: %s: block: [%d,%d,%d], thread: [%d,%d,%d] Assertion `%s` failed.\n";
    struct {
        uint64_t file;
        uint32_t line;
        uint64_t function;
        uint32_t block[3], thread[3];
        uint64_t message;
    } args = {file,
              line,
              function,
              {T->B->ctaid[0], T->B->ctaid[1], T->B->ctaid[2]},
              {T->tid[0], T->tid[1], T->tid[2]},
              message};
    struct vprintf_call call = {T, format, &args, -1};
    if (T->L->host->vprintf)
        rt_host(T, rt_vprintf_main, &call);
    rt_stop(T, PTX_STOP_ASSERT, 0, where);
}

INLINE uint64_t rt_now(struct thread *T)
{
    return T->L->host->now_ns() + T->sleep;
}

/* Local memory of a called function. */
INLINE uint32_t rt_frame(struct thread *T, uint32_t bytes, const char *where)
{
    uint32_t at = (T->local_used + 15) & ~15u;
    if (UNLIKELY(at + bytes > T->local_bytes))
        rt_stop(T, PTX_STOP_STACK, 0, where);
    T->local_used = at + bytes;
    return at;
}
/* Memory on the stack of a function: its frame grows. */
COLD uint32_t rt_alloca(struct thread *T, uint64_t bytes, uint32_t align, const char *where)
{
    uint64_t at = (T->local_used + (uint64_t)align - 1) & ~((uint64_t)align - 1);
    if (bytes > T->local_bytes || at + bytes > T->local_bytes)
        rt_stop(T, PTX_STOP_STACK, 0, where);
    T->local_used = (uint32_t)(at + bytes);
    return (uint32_t)at;
}
COLD void rt_unalloca(struct thread *T, uint64_t to, const char *where)
{
    if (to > T->local_used)
        rt_stop(T, PTX_STOP_STACK, 0, where);
    T->local_used = (uint32_t)to;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Text of the kernel prelude for kernels that are also made for rows of threads (rows.h).
 */
#define EACH for (uint32_t l_ = 0; l_ < 16; l_++)
#define ENDS for (uint32_t l_ = 0; l_ < 16; l_ += 15)
/* Where the threads' places in memory are known to differ. */
#define EACH_APART _Pragma("GCC ivdep") EACH

/* A register of a row, between statements: as many of the widest vectors as it takes. Arrays would
 * stay in memory: compilers put them in registers only before they make vectors of loops. */
#if defined(__AVX512F__)
#define RT_VECTOR 64
#elif defined(__AVX__)
#define RT_VECTOR 32
#else
#define RT_VECTOR 16
#endif
#define ROW_TYPE(bytes)                                                                            \
    typedef uint8_t rt_piece##bytes                                                                \
        __attribute__((vector_size(16 * (bytes) < RT_VECTOR ? 16 * (bytes) : RT_VECTOR)));         \
    typedef rt_piece##bytes rt_place##bytes __attribute__((aligned(1), may_alias));                \
    struct rt_row##bytes {                                                                         \
        rt_piece##bytes p[16 * (bytes) / sizeof(rt_piece##bytes)];                                 \
    };
ROW_TYPE(1)
ROW_TYPE(2)
ROW_TYPE(4)
ROW_TYPE(8)
ROW_TYPE(16)
/* Text rather than loops: what a loop indexes is not put in registers. */
#define ROW_ONCE(op, b, v, V, i)    op(b, v, V, i);
#define ROW_TWICE(op, b, v, V, i)   ROW_ONCE(op, b, v, V, i) ROW_ONCE(op, b, v, V, (i) + 1)
#define ROW_FOUR(op, b, v, V, i)    ROW_TWICE(op, b, v, V, i) ROW_TWICE(op, b, v, V, (i) + 2)
#define ROW_EIGHT(op, b, v, V, i)   ROW_FOUR(op, b, v, V, i) ROW_FOUR(op, b, v, V, (i) + 4)
#define ROW_SIXTEEN(op, b, v, V, i) ROW_EIGHT(op, b, v, V, i) ROW_EIGHT(op, b, v, V, (i) + 8)
#define ROW_OUT(b, v, V, i)         ((rt_place##b *)(v))[i] = (V).p[i]
#define ROW_IN(b, v, V, i)          (V).p[i] = ((const rt_place##b *)(v))[i]
#if RT_VECTOR == 64
#define ROW_EACH_2  ROW_ONCE
#define ROW_EACH_4  ROW_ONCE
#define ROW_EACH_8  ROW_TWICE
#define ROW_EACH_16 ROW_FOUR
#elif RT_VECTOR == 32
#define ROW_EACH_2  ROW_ONCE
#define ROW_EACH_4  ROW_TWICE
#define ROW_EACH_8  ROW_FOUR
#define ROW_EACH_16 ROW_EIGHT
#else
#define ROW_EACH_2  ROW_TWICE
#define ROW_EACH_4  ROW_FOUR
#define ROW_EACH_8  ROW_EIGHT
#define ROW_EACH_16 ROW_SIXTEEN
#endif
#define ROW_GET_1(v, V)  ROW_ONCE(ROW_OUT, 1, v, V, 0)
#define ROW_GET_2(v, V)  ROW_EACH_2(ROW_OUT, 2, v, V, 0)
#define ROW_GET_4(v, V)  ROW_EACH_4(ROW_OUT, 4, v, V, 0)
#define ROW_GET_8(v, V)  ROW_EACH_8(ROW_OUT, 8, v, V, 0)
#define ROW_GET_16(v, V) ROW_EACH_16(ROW_OUT, 16, v, V, 0)
#define ROW_PUT_1(V, v)  ROW_ONCE(ROW_IN, 1, v, V, 0)
#define ROW_PUT_2(V, v)  ROW_EACH_2(ROW_IN, 2, v, V, 0)
#define ROW_PUT_4(V, v)  ROW_EACH_4(ROW_IN, 4, v, V, 0)
#define ROW_PUT_8(V, v)  ROW_EACH_8(ROW_IN, 8, v, V, 0)
#define ROW_PUT_16(V, v) ROW_EACH_16(ROW_IN, 16, v, V, 0)

/* Does a register grow by n from thread to thread? */
#define RT_EVEN(name, C)                                                                           \
    INLINE _Bool name(const C *v, C n)                                                             \
    {                                                                                              \
        const C first = v[0];                                                                      \
        C off = 0;                                                                                 \
        EACH off |= v[l_] ^ (C)(first + l_ * n);                                                   \
        return !off;                                                                               \
    }
RT_EVEN(rt_even_4, uint32_t)
RT_EVEN(rt_even_8, uint64_t)

/* How many of sixteen predicates hold. */
INLINE uint32_t rt_count(const _Bool *p)
{
    const any64 *half = (const any64 *)p;
    return (uint32_t)((half[0] + half[1]) * 0x0101010101010101ull >> 56);
}

/* All of a row's accesses lie in mapped pages: at most two, as a row reaches less far than one. AE
 * leaves room for that, so one look at the first tells that the last is in the arena too. */
#define RT_ROW_GLOBAL(a, n, s, w)                                                                  \
    ({                                                                                             \
        const uint64_t a_ = (a), o_ = a_ - AB;                                                     \
        o_ < AE && !(a_ & ((n) - 1)) &&                                                            \
            (AM[o_ >> PTX_PAGE_SHIFT] & AM[(o_ + 15ull * (s)) >> PTX_PAGE_SHIFT] &                 \
             ((w) ? PTX_MAP_WRITE : PTX_MAP_READ));                                                \
    })
#define RT_ROW_SHARED(a, n, s)                                                                     \
    ({                                                                                             \
        const uint64_t a_ = (a);                                                                   \
        !(a_ >> 32) && a_ + 15ull * (s) + (n) <= SN && !(a_ & ((n) - 1));                          \
    })
/* Does a 32-bit register of this stride pass the end of its range within the row? */
#define RT_WRAPS_u32(r, s) ((uint64_t)((int64_t)(uint32_t)(r) + 15ll * (s)) > 0xffffffffull)
#define RT_WRAPS_s32(r, s)                                                                         \
    ((int64_t)(int32_t)((int64_t)(int32_t)(r) + 15ll * (s)) != (int64_t)(int32_t)(r) + 15ll * (s))

#define RT_WRAPS_u64(r, s)                                                                         \
    ({                                                                                             \
        uint64_t end_;                                                                             \
        (s) < 0 ? __builtin_sub_overflow((uint64_t)(r), (uint64_t)(-15ll * (s)), &end_)            \
                : __builtin_add_overflow((uint64_t)(r), (uint64_t)(15ll * (s)), &end_);            \
    })
#define RT_WRAPS_s64(r, s)                                                                         \
    ({                                                                                             \
        int64_t end_;                                                                              \
        __builtin_add_overflow((int64_t)(r), 15ll * (s), &end_);                                   \
    })
/* A row's bytes that may lie behind its first one: 15 strides of 4096 and an access. */
#define RT_ROW_REACH 65536u
#define RT_ROW_LOCALS                                                                              \
    const uint64_t AE = AN > RT_ROW_REACH ? AN - RT_ROW_REACH : 0;                                 \
    (void)AE

#if RT_FIBERS
#define RT_RESUMED(T) ((T)->first ? (void)(T)->first->started++ : (void)0)
/* The threads of a row part: each goes on as a fiber of its own; T itself is the first. `rows` lies
 * on T's stack, which stays as it is until the block ends or T does; all have started by then,
 * for T waits until they have read it. */
static void rt_part(struct thread *T, const void *rows, const uint32_t *to)
{
    T->at_once = 1;
    T->started = 0;
    for (uint32_t i = 1; i < 16; i++) {
        memset(&T[i], 0, sizeof(T[i]));
        T[i].tid[0] = T->tid[0] + i;
        T[i].tid[1] = T->tid[1];
        T[i].tid[2] = T->tid[2];
        T[i].lin = T->lin + i;
        T[i].stack = T->stack + i * RT_STACK;
        rt_thread_begin(T->S, &T[i], T->L, T->B);
        T[i].rows = rows;
        T[i].first = T;
        T[i].entry = to[i];
        T[i].state = ST_READY;
    }
    while (T->started < 15) {
        T->spun = 1;
        rt_yield(T);
    }
}
#else
#define RT_RESUMED(T) ((void)0)
#endif

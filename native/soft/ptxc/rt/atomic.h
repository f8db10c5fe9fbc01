/* SPDX-License-Identifier: Apache-2.0
 *
 * Text of the kernel prelude: atomics on host memory. Blocks of one launch may run on several host
 * threads, and the memory may be shared with other processes.
 */
#define ATOM_INT(U, n)                                                                             \
    INLINE U rt_atom_exch_b##n(void *p, U v)                                                       \
    {                                                                                              \
        return __atomic_exchange_n((U *)p, v, __ATOMIC_SEQ_CST);                                   \
    }                                                                                              \
    INLINE U rt_atom_cas_b##n(void *p, U cmp, U v)                                                 \
    {                                                                                              \
        __atomic_compare_exchange_n((U *)p, &cmp, v, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);       \
        return cmp;                                                                                \
    }
ATOM_INT(uint16_t, 16)
ATOM_INT(uint32_t, 32)
ATOM_INT(uint64_t, 64)
#define ATOM_FETCH(U, op, name)                                                                    \
    INLINE U rt_atom_##name(void *p, U v)                                                          \
    {                                                                                              \
        return __atomic_fetch_##op((U *)p, v, __ATOMIC_SEQ_CST);                                   \
    }
ATOM_FETCH(uint32_t, and, and_b32)
ATOM_FETCH(uint64_t, and, and_b64)
ATOM_FETCH(uint32_t, or, or_b32)
ATOM_FETCH(uint64_t, or, or_b64)
ATOM_FETCH(uint32_t, xor, xor_b32)
ATOM_FETCH(uint64_t, xor, xor_b64)
ATOM_FETCH(uint32_t, add, add_u32)
ATOM_FETCH(uint64_t, add, add_u64)
ATOM_FETCH(int32_t, add, add_s32)
ATOM_FETCH(int64_t, add, add_s64)

/* Any operation, by compare and swap. `T` is the value's type, `U` that of its bits. */
#define ATOM_LOOP(T, U, name, load, store, expr, ...)                                              \
    INLINE T rt_atom_##name(void *p, T v __VA_ARGS__)                                              \
    {                                                                                              \
        U seen = __atomic_load_n((U *)p, __ATOMIC_RELAXED), next;                                  \
        T old;                                                                                     \
        do {                                                                                       \
            old = load(seen);                                                                      \
            next = store(expr);                                                                    \
        } while (!__atomic_compare_exchange_n((U *)p, &seen, next, 0, __ATOMIC_SEQ_CST,            \
                                              __ATOMIC_RELAXED));                                  \
        return old;                                                                                \
    }
#define RT_SAME(x) (x)
ATOM_LOOP(uint32_t, uint32_t, min_u32, RT_SAME, RT_SAME, v < old ? v : old)
ATOM_LOOP(uint64_t, uint64_t, min_u64, RT_SAME, RT_SAME, v < old ? v : old)
ATOM_LOOP(uint32_t, uint32_t, max_u32, RT_SAME, RT_SAME, v > old ? v : old)
ATOM_LOOP(uint64_t, uint64_t, max_u64, RT_SAME, RT_SAME, v > old ? v : old)
ATOM_LOOP(int32_t, uint32_t, min_s32, (int32_t), (uint32_t), v < old ? v : old)
ATOM_LOOP(int64_t, uint64_t, min_s64, (int64_t), (uint64_t), v < old ? v : old)
ATOM_LOOP(int32_t, uint32_t, max_s32, (int32_t), (uint32_t), v > old ? v : old)
ATOM_LOOP(int64_t, uint64_t, max_s64, (int64_t), (uint64_t), v > old ? v : old)
ATOM_LOOP(uint32_t, uint32_t, inc_u32, RT_SAME, RT_SAME, old >= v ? 0 : old + 1)
ATOM_LOOP(uint32_t, uint32_t, dec_u32, RT_SAME, RT_SAME, !old || old > v ? v : old - 1)
ATOM_LOOP(float, uint32_t, add_f32, asf32, asu32,
          flush ? ftz_f32(ftz_f32(old) + ftz_f32(v)) : old + v, , int flush)
ATOM_LOOP(double, uint64_t, add_f64, asf64, asu64, old + v)
ATOM_LOOP(uint16_t, uint16_t, add_f16, RT_SAME, RT_SAME, f16_add(old, v, RN))
ATOM_LOOP(uint16_t, uint16_t, add_bf16, RT_SAME, RT_SAME, bf16_add(old, v, RN))
ATOM_LOOP(uint32_t, uint32_t, add_f16x2, RT_SAME, RT_SAME, f16x2_add(old, v, RN))
ATOM_LOOP(uint32_t, uint32_t, add_bf16x2, RT_SAME, RT_SAME, bf16x2_add(old, v, RN))

/* SPDX-License-Identifier: Apache-2.0
 *
 * What only a newer clang compiles for a GPU.
 */
#include "corpus.h"

/* The halves are those of the input, so that infinities and subnormal numbers are met. */
KERNEL void half(ARGS)
{
    _Float16 a = get<_Float16>(in, 0), b = get<_Float16>(in, 1), c = get<_Float16>(in, 2);
    putf(out, 0, (float)(_Float16)(a + b));
    putf(out, 1, (float)(_Float16)(a * b));
    putf(out, 2, (float)(_Float16)(a - c));
    putf(out, 3, (float)(_Float16)(a / b));
    putf(out, 4, (float)(_Float16)tame(get<u32>(in, 3)));
    putf(out, 5, (float)(_Float16)tamed(get<u64>(in, 3)));
    put<u32>(out, 6, (a < b) | (a == c) << 1 | (b >= c) << 2 | (a != a) << 3);
    putf(out, 7, (float)(a > b ? a : c));
    putf(out, 8, (float)(_Float16)get<i16>(in, 9));
    putd(out, 9, (double)b);
    putf(out, 10, (float)-a);
}

KERNEL void brain(ARGS)
{
    float a = tame(get<u32>(in, 0)), b = tame(get<u32>(in, 1));
    __bf16 x = (__bf16)a, y = (__bf16)b;
    putf(out, 0, (float)x);
    putf(out, 1, (float)(__bf16)(float)((float)x + (float)y));
    putf(out, 2, (float)(__bf16)get<float>(in, 3));
    u16 bits;
    __builtin_memcpy(&bits, &y, 2);
    put<u16>(out, 3, bits);
}

typedef _Float16 half4v __attribute__((ext_vector_type(4)));
typedef __bf16 brain2v __attribute__((ext_vector_type(2)));
typedef float float4v __attribute__((ext_vector_type(4)));
typedef float float2v __attribute__((ext_vector_type(2)));
typedef i32 int4v __attribute__((ext_vector_type(4)));
KERNEL void half_vectors(ARGS)
{
    float4v a = __builtin_convertvector(get<int4v>(in, 0), float4v) * 1e-9f;
    half4v h = __builtin_convertvector(a, half4v), g = h.wzyx * (_Float16)3;
    put(out, 0, (half4v)(h * h + g));
    put(out, 1, (half4v)(-h - g));
    put(out, 2, __builtin_convertvector(h > g ? h : g, float4v));
    put(out, 4, h < g);
    brain2v b = __builtin_convertvector(a.xy, brain2v);
    put(out, 5, __builtin_convertvector(b, float2v));
}

KERNEL void saturated(ARGS)
{
    i32 a = get<i32>(in, 0), b = get<i32>(in, 1);
    u64 w = get<u64>(in, 1), v = get<u64>(in, 2);
    put<i32>(out, 0, __builtin_elementwise_add_sat(a, b));
    put<u64>(out, 1, __builtin_elementwise_sub_sat(w, v));
    put<i16>(out, 2, __builtin_elementwise_sub_sat((i16)a, (i16)b));
    put<u8>(out, 3, __builtin_elementwise_add_sat((u8)a, (u8)b));
    int4v x = get<int4v>(in, 0), y = get<int4v>(in, 1);
    put<i32>(out, 4, __builtin_reduce_add(x) ^ __builtin_reduce_xor(y));
    put<i32>(out, 5, __builtin_reduce_max(x) - __builtin_reduce_min(y));
    /* clang 14 shifts by the amount as it is, and PTX's shr gives 0 from 64 on. */
    put<u64>(out, 6, __builtin_rotateright64(w, v & 63) ^ __builtin_rotateleft64(v, w & 63));
}

KERNEL void odd_widths(ARGS)
{
    unsigned _BitInt(37) a = get<u64>(in, 0), b = get<u64>(in, 1);
    _BitInt(23) c = get<i32>(in, 4), d = get<i32>(in, 5);
    put<u64>(out, 0, (u64)(a * b + a));
    put<u64>(out, 1, (u64)(b ? a / b : a));
    put<i64>(out, 2, (i64)(c * d - c));
    put<u64>(out, 3, (u64)(a >> (u32)(b & 31)));
    bool flags[5] = {a < b, c < d, a == b, (a & 1) != 0, c != 0};
    u32 sum = 0;
    for (int i = 0; i < 5; i++)
        sum |= (u32)flags[(i + 2) % 5] << i;
    put(out, 4, sum);
}

DEVICE NOINLINE static u64 total(int count, ...)
{
    __builtin_va_list list;
    __builtin_va_start(list, count);
    u64 sum = 0;
    for (int i = 0; i < count; i++)
        sum = sum * 7 + (i % 3 == 0   ? (u64)__builtin_va_arg(list, u32)
                         : i % 3 == 1 ? __builtin_va_arg(list, u64)
                                      : (u64)__builtin_va_arg(list, double));
    __builtin_va_end(list);
    return sum;
}
KERNEL void variadic(ARGS)
{
    put(out, 0, total(4, get<u32>(in, 0), get<u64>(in, 1), (double)get<u8>(in, 30), get<u32>(in, 5)));
    put(out, 1, total(1, get<u32>(in, 6)));
}

KERNEL void atomics_small(ARGS)
{
    u32 v = get<u32>(in, 0);
    __atomic_fetch_add((u16 *)&cells[8] + (v & 1), (u16)v, __ATOMIC_RELAXED);
    __atomic_fetch_xor((u8 *)&cells[9] + (v & 3), (u8)v, __ATOMIC_RELAXED);
    u16 seen = __atomic_load_n((u16 *)&cells[10], __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n((u16 *)&cells[10], &seen, (u16)(seen + (v & 15)), 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        ;
    __atomic_store_n(&cells[11], 77, __ATOMIC_RELEASE);
    __atomic_fetch_nand((u64 *)&cells[14], 0, __ATOMIC_RELAXED);
    u32 two = __atomic_load_n(&cells[12], __ATOMIC_SEQ_CST);
    put(out, 0, two);
}

KERNEL void scoped(ARGS)
{
    u32 v = get<u32>(in, 0);
#ifdef __CUDA__
    __scoped_atomic_fetch_add(&cells[0], v, __ATOMIC_RELAXED, __MEMORY_SCOPE_DEVICE);
    __scoped_atomic_fetch_max(&cells[1], v, __ATOMIC_ACQ_REL, __MEMORY_SCOPE_SYSTEM);
    __scoped_atomic_fetch_xor(&cells[2 + BLOCK()], v, __ATOMIC_SEQ_CST, __MEMORY_SCOPE_WRKGRP);
    __scoped_atomic_fetch_or(&cells[4], v, __ATOMIC_RELEASE, __MEMORY_SCOPE_DEVICE);
    __scoped_atomic_thread_fence(__ATOMIC_SEQ_CST, __MEMORY_SCOPE_DEVICE);
    __scoped_atomic_thread_fence(__ATOMIC_ACQUIRE, __MEMORY_SCOPE_WRKGRP);
#else
    __atomic_fetch_add(&cells[0], v, __ATOMIC_RELAXED);
    __atomic_fetch_max(&cells[1], v, __ATOMIC_RELAXED);
    __atomic_fetch_xor(&cells[2 + BLOCK()], v, __ATOMIC_RELAXED);
    __atomic_fetch_or(&cells[4], v, __ATOMIC_RELAXED);
#endif
}

KERNEL void runtime_sized(ARGS)
{
    u32 n = get<u32>(in, 0) % 20 + 1, sum = 0;
    u32 *v = (u32 *)__builtin_alloca(n * 4);
    for (u32 i = 0; i < n; i++)
        v[i] = get<u32>(in, (int)(i & 15)) + i;
    for (u32 i = 0; i < n; i++)
        sum = sum * 17 + v[n - 1 - i];
    put(out, 0, sum);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "corpus.h"

template <class U, class S> DEVICE static inline void widths(ARGS)
{
    U a = get<U>(in, 0), b = get<U>(in, 1), c = get<U>(in, 2);
    S x = (S)a, y = (S)b;
    const int n = sizeof(U) * 8;
    put<U>(out, 0, (U)(a + b * c));
    put<U>(out, 1, (U)(a - b) ^ (U)~c);
    put<U>(out, 2, b ? (U)(a / b) : a);
    put<U>(out, 3, b ? (U)(a % b) : a);
    put<S>(out, 4, y && y != (S)-1 ? (S)(x / y) : x);
    put<S>(out, 5, y && y != (S)-1 ? (S)(x % y) : x);
    put<U>(out, 6, (U)(a << (b & (n - 1))));
    put<U>(out, 7, (U)(a >> (b & (n - 1))));
    put<S>(out, 8, (S)(x >> (b & (n - 1))));
    put<S>(out, 9, x < y ? x : y);
    put<U>(out, 10, a > b ? a : b);
    put<S>(out, 11, x < 0 ? (S)-x : x);
    put<U>(out, 12, (U)(a / 10u + b % 7u));
    put<S>(out, 13, (S)(x / 10 + y % 7));
    put<u32>(out, 14, (a < b) | (x < y) << 1 | (a == c) << 2 | (x >= (S)c) << 3);
}
KERNEL void width_8(ARGS) { widths<u8, i8>(in, out, cells); }
KERNEL void width_16(ARGS) { widths<u16, i16>(in, out, cells); }
KERNEL void width_32(ARGS) { widths<u32, i32>(in, out, cells); }
KERNEL void width_64(ARGS) { widths<u64, i64>(in, out, cells); }

KERNEL void width_128(ARGS)
{
    u128 a = (u128)get<u64>(in, 0) << 64 | get<u64>(in, 1);
    u128 b = (u128)get<u64>(in, 2) << 64 | get<u64>(in, 3);
    u32 n = get<u32>(in, 9) & 127;
    u128 r[6] = {a + b, a - b, a * b, a << n, a >> n, (u128)((i128)a >> n)};
    for (int i = 0; i < 6; i++) {
        put<u64>(out, 2 * i, (u64)r[i]);
        put<u64>(out, 2 * i + 1, (u64)(r[i] >> 64));
    }
    put<u32>(out, 12, (a < b) | ((i128)a < (i128)b) << 1 | (a == b) << 2);
}

KERNEL void bits(ARGS)
{
    u32 a = get<u32>(in, 0), b = get<u32>(in, 1);
    u64 w = get<u64>(in, 1), v = get<u64>(in, 2);
    put<u32>(out, 0, __builtin_popcount(a) | __builtin_popcountll(w) << 8);
    put<u32>(out, 1, a ? __builtin_clz(a) | __builtin_ctz(a) << 8 : 99);
    put<u32>(out, 2, w ? __builtin_clzll(w) | __builtin_ctzll(w) << 8 : 99);
    put<u32>(out, 3, __builtin_bitreverse32(a));
    put<u64>(out, 4, __builtin_bitreverse64(w));
    put<u32>(out, 5, __builtin_bswap32(a));
    put<u64>(out, 6, __builtin_bswap64(w));
    put<u32>(out, 7, __builtin_rotateleft32(a, b & 31));
    put<u32>(out, 9, (u32)(((u64)a << 32 | b) >> (v & 31)));
    put<u32>(out, 10, (a >> 3 & 0x7ff) | (i32)(a << 9) >> 20);
    put<u32>(out, 11, (a & b) | (~a & (u32)v) | (a ^ b ^ (u32)v));
    put<u32>(out, 12, (a & 0xff00) >> 8 | (b & 0xff) << 24 | (u32)(v & 0xff0000));
    put<u16>(out, 13, __builtin_bswap16((u16)a));
    put<u8>(out, 14, __builtin_bitreverse8((u8)a));
    put<u32>(out, 15, __builtin_parity(a) | __builtin_ffs((int)b) << 8);
}

KERNEL void high_halves(ARGS)
{
    u32 a = get<u32>(in, 0), b = get<u32>(in, 1), c = get<u32>(in, 2);
    u64 w = get<u64>(in, 2), v = get<u64>(in, 3);
    put<u32>(out, 0, (u32)((u64)a * b >> 32));
    put<i32>(out, 1, (i32)((i64)(i32)a * (i32)b >> 32));
    put<u64>(out, 2, (u64)((u128)w * v >> 64));
    put<i64>(out, 3, (i64)((i128)(i64)w * (i64)v >> 64));
    put<u64>(out, 4, (u64)a * b + w);
    put<i64>(out, 5, (i64)(i32)a * (i32)b + (i64)v);
    put<u32>(out, 6, a * 1000003u + (b ^ c) * 31u);
    put<i32>(out, 7, (i32)(i16)a * (i16)b + (i32)c);
    u64 carry = (u64)a + b;
    put<u32>(out, 8, (u32)(carry >> 32) + c);
    put<u64>(out, 9, w / 1000000007ull + v % 97);
    put<u32>(out, 10, (a & 0xffffff) * (b & 0xffffff));
}

KERNEL void overflow(ARGS)
{
    i32 a = get<i32>(in, 0), b = get<i32>(in, 1), r;
    u64 w = get<u64>(in, 1), v = get<u64>(in, 2), q;
    i64 s;
    u32 flags = 0;
    flags |= __builtin_add_overflow(a, b, &r) << 0, put(out, 0, r);
    flags |= __builtin_sub_overflow(a, b, &r) << 1, put(out, 1, r);
    flags |= __builtin_mul_overflow(a, b, &r) << 2, put(out, 2, r);
    flags |= __builtin_add_overflow(w, v, &q) << 3, put(out, 3, q);
    flags |= __builtin_mul_overflow(w, v, &q) << 4, put(out, 4, q);
    flags |= __builtin_sub_overflow((i64)w, (i64)v, &s) << 5, put(out, 5, s);
    put(out, 6, flags);
}

struct fields {
    u32 a : 3, b : 11;
    i32 c : 7, d : 11;
    u64 e : 37;
    i64 f : 20;
};
KERNEL void bitfields(ARGS)
{
    fields f;
    f.a = get<u32>(in, 0), f.b = get<u32>(in, 1), f.c = get<i32>(in, 2), f.d = get<i32>(in, 3);
    f.e = get<u64>(in, 2), f.f = get<i64>(in, 3);
    f.b += f.a * 3;
    f.c -= f.d;
    put<u32>(out, 0, f.a), put<u32>(out, 1, f.b), put<i32>(out, 2, f.c), put<i32>(out, 3, f.d);
    put<u64>(out, 4, f.e), put<i64>(out, 5, f.f);
    put<u64>(out, 6, (u64)(f.e * f.b) ^ (u64)f.f);
}

typedef i32 int4v __attribute__((ext_vector_type(4)));
typedef u16 ushort2v __attribute__((ext_vector_type(2)));
typedef i8 char4v __attribute__((ext_vector_type(4)));
typedef u64 long2v __attribute__((ext_vector_type(2)));
KERNEL void int_vectors(ARGS)
{
    int4v a = get<int4v>(in, 0), b = get<int4v>(in, 1);
    put(out, 0, a + b * 3);
    put(out, 2, (a > b) & (a ^ b));
    put(out, 4, a.wzyx - b.xxyy);
    ushort2v p = get<ushort2v>(in, 0), q = get<ushort2v>(in, 1);
    put(out, 6, (ushort2v)(p * q + p));
    put(out, 7, __builtin_elementwise_min(p, q));
    char4v c = get<char4v>(in, 2), d = get<char4v>(in, 3);
    put(out, 8, (char4v)(c + d));
    put(out, 9, __builtin_elementwise_max(c, d));
    long2v l = get<long2v>(in, 2), m = get<long2v>(in, 3);
    put(out, 10, (l & m) + (l >> 7));
    put(out, 12, __builtin_convertvector(c, int4v) * a);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "corpus.h"

KERNEL void single(ARGS)
{
    float a = tame(get<u32>(in, 0)), b = tame(get<u32>(in, 1)), c = tame(get<u32>(in, 2));
    putf(out, 0, a * b + c);
    putf(out, 1, a / b - c);
    putf(out, 2, __builtin_fmaf(a, b, c));
    putf(out, 3, __builtin_sqrtf(__builtin_fabsf(a)));
    putf(out, 4, __builtin_floorf(a) + __builtin_ceilf(b));
    putf(out, 5, __builtin_truncf(a) - __builtin_rintf(b));
    putf(out, 6, __builtin_copysignf(a, c) + __builtin_roundf(b));
    putf(out, 7, __builtin_fminf(a, b) - __builtin_fmaxf(b, c));
    putf(out, 8, a > b ? -c : c * a);
    putf(out, 9, 1.0f / (a * a + 1.0f));
    put<u32>(out, 10, (a < b) | (a <= c) << 1 | (a != b) << 2 | __builtin_isunordered(a, b) << 3);
    putf(out, 11, (float)get<i32>(in, 4) + (float)get<u32>(in, 5));
    putf(out, 12, (float)get<i64>(in, 3) - (float)get<u64>(in, 4));
    put<i32>(out, 13, (i32)a);
    put<u32>(out, 14, (u32)__builtin_fabsf(b));
    put<i64>(out, 15, (i64)(c * 1e9f));
}

KERNEL void twofold(ARGS)
{
    double a = tamed(get<u64>(in, 0)), b = tamed(get<u64>(in, 1)), c = tamed(get<u64>(in, 2));
    putd(out, 0, a * b + c);
    putd(out, 1, a / b - c);
    putd(out, 2, __builtin_fma(a, b, c));
    putd(out, 3, __builtin_sqrt(__builtin_fabs(a)));
    putd(out, 4, __builtin_floor(a) + __builtin_ceil(b));
    putd(out, 5, __builtin_trunc(a) - __builtin_rint(b));
    putd(out, 6, __builtin_copysign(a, c) + __builtin_round(b));
    putd(out, 7, __builtin_fmin(a, b) - __builtin_fmax(b, c));
    put<u32>(out, 8, (a < b) | (a >= c) << 1 | (a == b) << 2);
    putf(out, 9, (float)a + (float)(b * 1e30));
    putd(out, 10, (double)get<i32>(in, 4) * (double)get<u64>(in, 4));
    put<i32>(out, 11, (i32)a);
    put<u64>(out, 12, (u64)__builtin_fabs(b * 1e12));
    put<i64>(out, 13, (i64)(c * 1e12));
    putd(out, 14, 1.0 / (a * a + 1.0));
}

/* Every bit pattern, NaN and infinity among them. */
KERNEL void any_bits(ARGS)
{
    float a = get<float>(in, 0), b = get<float>(in, 1);
    double c = get<double>(in, 1), d = get<double>(in, 2);
    putf(out, 0, a + b);
    putf(out, 1, a * b);
    putf(out, 2, a / b);
    putd(out, 3, c - d);
    putd(out, 4, c * d);
    putd(out, 5, (double)a);
    putf(out, 6, (float)c);
    put<u32>(out, 7, (a < b) | (a == b) << 1 | !(a >= b) << 2 | (c > d) << 3 | (a != a) << 4);
    put<u32>(out, 8, __builtin_isinf(a) | __builtin_isnan(d) << 1 | __builtin_isfinite(b) << 2);
    put<u32>(out, 9, __builtin_signbit(a) != 0);
    putf(out, 10, __builtin_fmaf(a, b, a));
    putd(out, 11, __builtin_fma(c, d, c));
    putf(out, 12, __builtin_sqrtf(a));
    putd(out, 13, __builtin_floor(c));
}

typedef float float4v __attribute__((ext_vector_type(4)));
typedef double double2v __attribute__((ext_vector_type(2)));
typedef i32 int4v __attribute__((ext_vector_type(4)));
KERNEL void float_vectors(ARGS)
{
    int4v i = get<int4v>(in, 0), j = get<int4v>(in, 1);
    float4v a = __builtin_convertvector(i, float4v) * 0.125f, b = __builtin_convertvector(j, float4v);
    put(out, 0, a * b + a.yxwz);
    put(out, 2, a < b);
    put(out, 4, __builtin_convertvector(a * 1e-6f, int4v));
    double2v d = __builtin_convertvector(a.xz, double2v);
    put(out, 6, d * d - d.yx);
    put(out, 9, __builtin_elementwise_abs(a).x + __builtin_elementwise_max(a, b).y);
    put(out, 10, a.x > 0 ? a : b);
}

/* Series: long dependent chains of operations with known rounding. */
KERNEL void series(ARGS)
{
    float x = tame(get<u32>(in, 0)) * 1e-3f, term = 1, sum = 1;
    for (int n = 1; n < 24; n++) {
        term = term * x / (float)n;
        sum += term;
    }
    putf(out, 0, sum);
    double z = tamed(get<u64>(in, 1)) * 1e-4, guess = 1;
    for (int n = 0; n < 20; n++)
        guess = 0.5 * (guess + (z * z + 2.0) / guess);
    putd(out, 1, guess);
    float re = 0, im = 0, cr = x * 0.5f, ci = tame(get<u32>(in, 3)) * 1e-3f;
    u32 n = 0;
    while (n < 100 && re * re + im * im < 4.0f) {
        float t = re * re - im * im + cr;
        im = 2.0f * re * im + ci;
        re = t;
        n++;
    }
    put<u32>(out, 2, n);
}

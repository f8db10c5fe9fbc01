/* SPDX-License-Identifier: Apache-2.0
 *
 * Text of the kernel prelude, behind float.h: bits of floating-point formats. Packing, halves,
 * approximations, conversions.
 */
/* ------------------------------------------------------------------ packing into any format --- */

/* Encodes (-1)^neg * sig * 2^exp; `sticky`: a non-zero remainder below sig. */
static uint64_t fp_pack(int neg, uint64_t sig, int exp, int sticky, int ebits, int mbits, int r)
{
    const uint64_t sign = (uint64_t)neg << (ebits + mbits);
    const uint64_t inf = (((uint64_t)1 << ebits) - 1) << mbits;
    const int bias = (1 << (ebits - 1)) - 1;
    if (!sig)
        return sign;
    int lz = __builtin_clzll(sig);
    sig <<= lz;
    int e = exp - lz + 63, drop = 63 - mbits;
    if (e < 1 - bias)
        drop += 1 - bias - e;
    uint64_t m = drop < 64 ? sig >> drop : 0;
    uint64_t half = drop <= 64 ? sig >> (drop - 1) & 1 : 0;
    uint64_t rest = drop <= 64 ? drop > 1 ? sig << (65 - drop) : 0 : 1;
    if (drop == 64)
        rest = sig << 1;
    rest |= (uint64_t)sticky;
    if (r == RN)
        m += half && (rest || (m & 1));
    else if ((r == RM && neg) || (r == RP && !neg))
        m += half || rest;
    uint64_t enc = e < 1 - bias ? m : ((uint64_t)(e + bias - 1) << mbits) + m;
    if (e > bias || enc >= inf)
        enc = r == RN || (r == RM && neg) || (r == RP && !neg) ? inf : inf - 1;
    return enc | sign;
}
static uint64_t fp_from_f64(double a, int ebits, int mbits, int r, uint64_t nan)
{
    uint64_t u = asu64(a), m = u & 0xfffffffffffff;
    int e = (int)(u >> 52 & 0x7ff), neg = (int)(u >> 63);
    if (e == 0x7ff)
        return m ? nan : ((((uint64_t)1 << ebits) - 1) << mbits) | (uint64_t)neg << (ebits + mbits);
    return fp_pack(neg, e ? m | 1ull << 52 : m, e ? e - 1075 : -1074, 0, ebits, mbits, r);
}
/* Rounds a + b to a double that keeps, in its last bit, whether anything was lost: rounding that
 * again to a format of at most 51 bits gives the correctly rounded sum. */
INLINE double f64_add_odd(double a, double b)
{
    double s = a + b, bb = s - a;
    double err = (a - (s - bb)) + (b - bb);
    if (err != 0 && err == err && !(asu64(s) & 1)) {
        int up = (err > 0) == (s > 0);
        s = asf64(asu64(s) + (up ? 1 : (uint64_t)-1));
    }
    return s;
}

INLINE float f16_load(uint16_t h)
{
#if defined(__F16C__)
    float f;
    __asm__("vmovd %1, %0\n\tvcvtph2ps %0, %0" : "=x"(f) : "r"((uint32_t)h));
    return f;
#else
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 1023;
    if (e == 31)
        return asf32(sign | 0x7f800000 | m << 13);
    if (e)
        return asf32(sign | (e + 112) << 23 | m << 13);
    return asf32(asu32((float)m * 0x1p-24f) | sign);
#endif
}
INLINE uint16_t f16_round(double a, int r)
{
    return (uint16_t)fp_from_f64(a, 5, 10, r, 0x7fff);
}
INLINE uint16_t f16_store(float a) /* to nearest */
{
#if defined(__F16C__)
    uint32_t out;
    float half;
    __asm__("vcvtps2ph $0, %2, %1\n\tvmovd %1, %0" : "=r"(out), "=x"(half) : "x"(a));
    return a == a ? (uint16_t)out : 0x7fff;
#else
    return f16_round((double)a, RN);
#endif
}
INLINE float bf16_load(uint16_t h)
{
    return asf32((uint32_t)h << 16);
}
INLINE uint16_t bf16_store(float a)
{
    uint32_t u = asu32(a);
    return a == a ? (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16) : 0x7fff;
}
INLINE uint16_t bf16_round(double a, int r)
{
    return (uint16_t)fp_from_f64(a, 8, 7, r, 0x7fff);
}
INLINE float f32_round(double a, int r)
{
    return r == RN ? (float)a : asf32((uint32_t)fp_from_f64(a, 8, 23, r, NAN32));
}

/* A float result holds sums and products of halves well enough that rounding it again is exact
 * (24 >= 2 * 11 + 2; a 16-bit product of bf16s that a subnormal float cuts is below half of the
 * least bf16); fma needs the odd rounding. */
#define SMALL_OPS(t)                                                                               \
    INLINE uint16_t t##_add(uint16_t a, uint16_t b, int r)                                         \
    {                                                                                              \
        return t##_store(t##_load(a) + t##_load(b));                                               \
    }                                                                                              \
    INLINE uint16_t t##_sub(uint16_t a, uint16_t b, int r)                                         \
    {                                                                                              \
        return t##_store(t##_load(a) - t##_load(b));                                               \
    }                                                                                              \
    INLINE uint16_t t##_mul(uint16_t a, uint16_t b, int r)                                         \
    {                                                                                              \
        return t##_store(t##_load(a) * t##_load(b));                                               \
    }                                                                                              \
    INLINE uint16_t t##_fma(struct thread *T, uint16_t a, uint16_t b, uint16_t c, int r)           \
    {                                                                                              \
        double p = (double)t##_load(a) * (double)t##_load(b);                                      \
        return t##_round(f64_add_odd(p, (double)t##_load(c)), RN);                                 \
    }                                                                                              \
    INLINE uint16_t t##_neg(uint16_t a)                                                            \
    {                                                                                              \
        return a ^ 0x8000;                                                                         \
    }                                                                                              \
    INLINE uint16_t t##_abs(uint16_t a)                                                            \
    {                                                                                              \
        return a & 0x7fff;                                                                         \
    }                                                                                              \
    INLINE uint16_t relu_##t(uint16_t a)                                                           \
    {                                                                                              \
        float f = t##_load(a);                                                                     \
        return f != f ? 0x7fff : f > 0 ? a : 0;                                                    \
    }                                                                                              \
    INLINE uint16_t sat_##t(uint16_t a)                                                            \
    {                                                                                              \
        return t##_store(sat_f32(t##_load(a)));                                                    \
    }                                                                                              \
    INLINE uint16_t t##_pick(uint16_t a, uint16_t b, float v)                                      \
    {                                                                                              \
        return v != v ? 0x7fff : asu32(t##_load(a)) == asu32(v) ? a : b;                           \
    }                                                                                              \
    INLINE uint16_t t##_min(uint16_t a, uint16_t b)                                                \
    {                                                                                              \
        return t##_pick(a, b, f32_min(t##_load(a), t##_load(b)));                                  \
    }                                                                                              \
    INLINE uint16_t t##_max(uint16_t a, uint16_t b)                                                \
    {                                                                                              \
        return t##_pick(a, b, f32_max(t##_load(a), t##_load(b)));                                  \
    }                                                                                              \
    INLINE uint16_t t##_minnan(uint16_t a, uint16_t b)                                             \
    {                                                                                              \
        return t##_pick(a, b, f32_minnan(t##_load(a), t##_load(b)));                               \
    }                                                                                              \
    INLINE uint16_t t##_maxnan(uint16_t a, uint16_t b)                                             \
    {                                                                                              \
        return t##_pick(a, b, f32_maxnan(t##_load(a), t##_load(b)));                               \
    }
INLINE uint16_t ftz_f16(uint16_t a)
{
    return a & 0x7c00 ? a : a & 0x8000;
}
SMALL_OPS(f16)
SMALL_OPS(bf16)
#define ftz_bf16(a)   (a)
#define PAIR2(lo, hi) ((uint32_t)(uint16_t)(lo) | (uint32_t)(uint16_t)(hi) << 16)
#define LO16(a)       ((uint16_t)(a))
#define HI16(a)       ((uint16_t)((a) >> 16))
#define X2_1(name, one)                                                                            \
    INLINE uint32_t name(uint32_t a)                                                               \
    {                                                                                              \
        return PAIR2(one(LO16(a)), one(HI16(a)));                                                  \
    }
#define X2_2(name, one)                                                                            \
    INLINE uint32_t name(uint32_t a, uint32_t b)                                                   \
    {                                                                                              \
        return PAIR2(one(LO16(a), LO16(b)), one(HI16(a), HI16(b)));                                \
    }
#define X2_2R(name, one)                                                                           \
    INLINE uint32_t name(uint32_t a, uint32_t b, int r)                                            \
    {                                                                                              \
        return PAIR2(one(LO16(a), LO16(b), r), one(HI16(a), HI16(b), r));                          \
    }
#define SMALL_X2(t)                                                                                \
    X2_2R(t##x2_add, t##_add)                                                                      \
    X2_2R(t##x2_sub, t##_sub)                                                                      \
    X2_2R(t##x2_mul, t##_mul)                                                                      \
    X2_1(t##x2_neg, t##_neg)                                                                       \
    X2_1(t##x2_abs, t##_abs)                                                                       \
    X2_1(relu_##t##x2, relu_##t)                                                                   \
    X2_1(sat_##t##x2, sat_##t)                                                                     \
    X2_1(ftz_##t##x2, ftz_##t)                                                                     \
    X2_2(t##x2_min, t##_min)                                                                       \
    X2_2(t##x2_max, t##_max)                                                                       \
    X2_2(t##x2_minnan, t##_minnan)                                                                 \
    X2_2(t##x2_maxnan, t##_maxnan)                                                                 \
    INLINE uint32_t t##x2_fma(struct thread *T, uint32_t a, uint32_t b, uint32_t c, int r)         \
    {                                                                                              \
        return PAIR2(t##_fma(T, LO16(a), LO16(b), LO16(c), r),                                     \
                     t##_fma(T, HI16(a), HI16(b), HI16(c), r));                                    \
    }
SMALL_X2(f16)
SMALL_X2(bf16)
#define XORSIGN(t, U, sign)                                                                        \
    INLINE U xorsign_##t(U a, U b, U m)                                                            \
    {                                                                                              \
        return (U)((m & ~sign) | ((a ^ b) & sign));                                                \
    }
XORSIGN(f16, uint16_t, 0x8000u)
XORSIGN(bf16, uint16_t, 0x8000u)
XORSIGN(f16x2, uint32_t, 0x80008000u)
XORSIGN(bf16x2, uint32_t, 0x80008000u)
/* .satfinite: what would be infinite is the largest number. */
#define SATFINITE(t, U, inf)                                                                       \
    INLINE U finite_##t(U v)                                                                       \
    {                                                                                              \
        const U sign = (U)((U)1 << (sizeof(U) * 8 - 1));                                           \
        return (v & (U)~sign) == (inf) ? (U)(v - 1) : v;                                           \
    }
SATFINITE(f16, uint16_t, 0x7c00)
SATFINITE(bf16, uint16_t, 0x7f80)
INLINE uint32_t finite_tf32(uint32_t v)
{
    return (v & 0x7fffffff) == 0x7f800000 ? v - 0x2000 : v;
}

/* ----------------------------------------------------------------------- approximations ------- */
/* Results here are the correctly rounded or libm ones: inside the error PTX allows. */

INLINE float f32_divapprox(float a, float b)
{
    /* 2^126 < |b|: the reciprocal underflows, as documented. */
    if (f32_abs(b) > 0x1p126f && f32_abs(b) < __builtin_inff())
        return f32_abs(a) < __builtin_inff() ? asf32((asu32(a) ^ asu32(b)) & 0x80000000)
                                             : asf32(NAN32);
    return a / b;
}
INLINE double f64_gross(double a) /* only the upper word is computed */
{
    return asf64(asu64(ftz_f64(a)) & 0xffffffff00000000ull);
}
#define f32_sin(a)   (T->L->host->sinf(a))
#define f32_cos(a)   (T->L->host->cosf(a))
#define f32_ex2(a)   (T->L->host->exp2f(a))
#define f32_lg2(a)   (T->L->host->log2f(a))
#define f32_tanh(a)  (T->L->host->tanhf(a))
#define f16_ex2(a)   f16_store(f32_ex2(f16_load(a)))
#define f16_tanh(a)  f16_store(f32_tanh(f16_load(a)))
#define bf16_ex2(a)  bf16_store(f32_ex2(bf16_load(a)))
#define bf16_tanh(a) bf16_store(f32_tanh(bf16_load(a)))
#define X2_CALL(one, a)                                                                            \
    ({                                                                                             \
        const uint32_t v2_ = (a);                                                                  \
        PAIR2(one(LO16(v2_)), one(HI16(v2_)));                                                     \
    })
#define f16x2_ex2(a)   X2_CALL(f16_ex2, a)
#define f16x2_tanh(a)  X2_CALL(f16_tanh, a)
#define bf16x2_ex2(a)  X2_CALL(bf16_ex2, a)
#define bf16x2_tanh(a) X2_CALL(bf16_tanh, a)

/* --------------------------------------------------------------------------- conversions ------ */

INLINE double f64_rint(double a)
{
#if defined(__SSE4_1__) || defined(__aarch64__)
    return __builtin_rint(a);
#else
    double m = f64_abs(a), r = (m + 0x1p52) - 0x1p52;
    return m < 0x1p52 ? asf64(asu64(r) | (asu64(a) & 1ull << 63)) : a;
#endif
}
INLINE double f64_integer(double a, int r)
{
    double n = f64_rint(a);
    if (r == RN || !(f64_abs(a) < 0x1p52))
        return n;
    int down = r == RM || (r == RZ && a > 0);
    double m = down ? n > a ? n - 1 : n : n < a ? n + 1 : n;
    return asf64((asu64(m) & ~(1ull << 63)) | (asu64(a) & 1ull << 63));
}
INLINE int64_t f64_to_s(double a, int r, int bits, int64_t nan)
{
    double top = bits == 64 ? 0x1p63 : (double)(1ll << (bits - 1));
    a = f64_integer(a, r);
    if (a != a)
        return nan;
    if (a >= top)
        return (int64_t)(((uint64_t)1 << (bits - 1)) - 1);
    if (a < -top)
        return (int64_t)(~(uint64_t)0 << (bits - 1));
    return (int64_t)a;
}
INLINE uint64_t f64_to_u(double a, int r, int bits, uint64_t nan)
{
    double top = bits == 64 ? 0x1p64 : (double)(1ll << bits);
    a = f64_integer(a, r);
    if (a != a)
        return nan;
    if (a >= top)
        return bits == 64 ? ~(uint64_t)0 : ((uint64_t)1 << bits) - 1;
    if (a <= 0)
        return 0;
    return a < 0x1p63 ? (uint64_t)(int64_t)a : (uint64_t)(int64_t)(a - 0x1p63) | 1ull << 63;
}
INLINE uint64_t fp_from_u64(uint64_t a, int ebits, int mbits, int r)
{
    return fp_pack(0, a, 0, 0, ebits, mbits, r);
}
INLINE uint64_t fp_from_s64(int64_t a, int ebits, int mbits, int r)
{
    return fp_pack(a < 0, a < 0 ? 0 - (uint64_t)a : (uint64_t)a, 0, 0, ebits, mbits, r);
}
INLINE uint32_t tf32_rna(float a)
{
    uint32_t u = asu32(a);
    if (a != a)
        return NAN32;
    if ((u & 0x7f800000) == 0x7f800000)
        return u;
    return (u + 0x1000) & ~0x1fffu;
}
INLINE uint32_t tf32_round(float a, int r)
{
    return (uint32_t)(fp_from_f64((double)a, 8, 10, r, 0x3ffff) << 13) | (a != a ? 0x1fff : 0);
}
INLINE int fp_class(int kind, int e_all, int e_zero, int m_zero)
{
    switch (kind) {
    case 0:
        return !e_all; /* finite */
    case 1:
        return e_all && m_zero; /* infinite */
    case 2:
        return !e_all && !(e_zero && !m_zero) && !(e_zero && m_zero); /* normal */
    case 3:
        return e_zero && !m_zero; /* subnormal */
    case 4:
        return !(e_all && !m_zero); /* number */
    default:
        return e_all && !m_zero; /* notanumber */
    }
}
INLINE int testp_f32(float a, int kind)
{
    uint32_t u = asu32(a);
    return fp_class(kind, (u & 0x7f800000) == 0x7f800000, !(u & 0x7f800000), !(u & 0x7fffff));
}
INLINE int testp_f64(double a, int kind)
{
    uint64_t u = asu64(a), e = u & 0x7ff0000000000000;
    return fp_class(kind, e == 0x7ff0000000000000, !e, !(u & 0xfffffffffffff));
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Text of the kernel prelude: floating point with PTX's rounding modes. Round-to-nearest is the
 * host's own; the directed modes switch the rounding mode for one instruction, so they are exact.
 * A block runs with the default floating-point control (run_block sets it), whatever the client's
 * threads use.
 */
enum { RN, RZ, RM, RP };

#if defined(__x86_64__)
/* MXCSR rounding control: 1 down, 2 up, 3 towards zero; all exceptions masked. */
static const uint32_t rt_csr[4] = {0x1f80, 0x1f80 | 3 << 13, 0x1f80 | 1 << 13, 0x1f80 | 2 << 13};
#ifdef __AVX__
#define RT_OP2(insn) "v" insn " %[b], %[a], %[a]"
#define RT_OP1(insn) "v" insn " %[a], %[a], %[a]"
#else
#define RT_OP2(insn) insn " %[b], %[a]"
#define RT_OP1(insn) insn " %[a], %[a]"
#endif
#define DIRECTED(T, name, insn)                                                                    \
    INLINE T name(T a, T b, int r)                                                                 \
    {                                                                                              \
        __asm__ volatile("ldmxcsr %[m]\n\t" RT_OP2(insn) "\n\tldmxcsr %[d]"                        \
                         : [a] "+x"(a)                                                             \
                         : [b] "x"(b), [m] "m"(rt_csr[r]), [d] "m"(rt_csr[0]));                    \
        return a;                                                                                  \
    }
#define DIRECTED1(T, name, insn)                                                                   \
    INLINE T name(T a, int r)                                                                      \
    {                                                                                              \
        __asm__ volatile("ldmxcsr %[m]\n\t" RT_OP1(insn) "\n\tldmxcsr %[d]"                        \
                         : [a] "+x"(a)                                                             \
                         : [m] "m"(rt_csr[r]), [d] "m"(rt_csr[0]));                                \
        return a;                                                                                  \
    }
DIRECTED(float, f32_addd, "addss")
DIRECTED(float, f32_subd, "subss")
DIRECTED(float, f32_muld, "mulss")
DIRECTED(float, f32_divd, "divss")
DIRECTED1(float, f32_sqrtd, "sqrtss")
DIRECTED(double, f64_addd, "addsd")
DIRECTED(double, f64_subd, "subsd")
DIRECTED(double, f64_muld, "mulsd")
DIRECTED(double, f64_divd, "divsd")
DIRECTED1(double, f64_sqrtd, "sqrtsd")
#ifdef __FMA__
#define DIRECTED3(T, name, insn)                                                                   \
    INLINE T name(struct thread *t, T a, T b, T c, int r)                                          \
    {                                                                                              \
        __asm__ volatile("ldmxcsr %[m]\n\t" insn " %[c], %[b], %[a]\n\tldmxcsr %[d]"               \
                         : [a] "+x"(a)                                                             \
                         : [b] "x"(b), [c] "x"(c), [m] "m"(rt_csr[r]), [d] "m"(rt_csr[0]));        \
        return a;                                                                                  \
    }
DIRECTED3(float, f32_fmad, "vfmadd213ss")
DIRECTED3(double, f64_fmad, "vfmadd213sd")
#define RT_FMA 1
#endif
#else
static const uint32_t rt_csr[4] = {0, 3 << 22, 2 << 22, 1 << 22};
#define DIRECTED(T, name, insn, reg)                                                               \
    INLINE T name(T a, T b, int r)                                                                 \
    {                                                                                              \
        T o;                                                                                       \
        __asm__ volatile("msr fpcr, %x[m]\n\t" insn " %" reg "[o], %" reg "[a], %" reg             \
                         "[b]\n\tmsr fpcr, xzr"                                                    \
                         : [o] "=&w"(o)                                                            \
                         : [a] "w"(a), [b] "w"(b), [m] "r"((uint64_t)rt_csr[r]));                  \
        return o;                                                                                  \
    }
#define DIRECTED1(T, name, insn, reg)                                                              \
    INLINE T name(T a, int r)                                                                      \
    {                                                                                              \
        T o;                                                                                       \
        __asm__ volatile("msr fpcr, %x[m]\n\t" insn " %" reg "[o], %" reg "[a]\n\tmsr fpcr, xzr"   \
                         : [o] "=&w"(o)                                                            \
                         : [a] "w"(a), [m] "r"((uint64_t)rt_csr[r]));                              \
        return o;                                                                                  \
    }
#define DIRECTED3(T, name, insn, reg)                                                              \
    INLINE T name(struct thread *t, T a, T b, T c, int r)                                          \
    {                                                                                              \
        T o;                                                                                       \
        __asm__ volatile("msr fpcr, %x[m]\n\t" insn " %" reg "[o], %" reg "[a], %" reg             \
                         "[b], %" reg "[c]\n\tmsr fpcr, xzr"                                       \
                         : [o] "=&w"(o)                                                            \
                         : [a] "w"(a), [b] "w"(b), [c] "w"(c), [m] "r"((uint64_t)rt_csr[r]));      \
        return o;                                                                                  \
    }
DIRECTED(float, f32_addd, "fadd", "s")
DIRECTED(float, f32_subd, "fsub", "s")
DIRECTED(float, f32_muld, "fmul", "s")
DIRECTED(float, f32_divd, "fdiv", "s")
DIRECTED1(float, f32_sqrtd, "fsqrt", "s")
DIRECTED3(float, f32_fmad, "fmadd", "s")
DIRECTED(double, f64_addd, "fadd", "d")
DIRECTED(double, f64_subd, "fsub", "d")
DIRECTED(double, f64_muld, "fmul", "d")
DIRECTED(double, f64_divd, "fdiv", "d")
DIRECTED1(double, f64_sqrtd, "fsqrt", "d")
DIRECTED3(double, f64_fmad, "fmadd", "d")
#define RT_FMA 1
#endif

#ifdef RT_FMA
#define f32_fmar(T, a, b, c) __builtin_fmaf(a, b, c)
#define f64_fmar(T, a, b, c) __builtin_fma(a, b, c)
#else
#define f32_fmar(T, a, b, c) (T->L->host->fmaf(a, b, c))
#define f64_fmar(T, a, b, c) (T->L->host->fma(a, b, c))
/* libm's fma follows the rounding mode. */
COLD float f32_fmad(struct thread *T, float a, float b, float c, int r)
{
    rt_fp_set(rt_csr[r]);
    a = T->L->host->fmaf(a, b, c);
    rt_fp_set(rt_csr[0]);
    return a;
}
COLD double f64_fmad(struct thread *T, double a, double b, double c, int r)
{
    rt_fp_set(rt_csr[r]);
    a = T->L->host->fma(a, b, c);
    rt_fp_set(rt_csr[0]);
    return a;
}
#endif

/* The rounding mode is a literal in generated code: macros, since a kernel may hold thousands. */
#define f32_add(a, b, r)        f32_add_##r(a, b)
#define f32_sub(a, b, r)        f32_sub_##r(a, b)
#define f32_mul(a, b, r)        f32_mul_##r(a, b)
#define f32_div(a, b, r)        f32_div_##r(a, b)
#define f32_sqrt(a, r)          f32_sqrt_##r(a)
#define f32_fma(th, a, b, c, r) f32_fma_##r(th, a, b, c)
#define f32_add_RN(a, b)        ((a) + (b))
#define f32_sub_RN(a, b)        ((a) - (b))
#define f32_mul_RN(a, b)        ((a) * (b))
#define f32_div_RN(a, b)        ((a) / (b))
#define f32_sqrt_RN(a)          __builtin_sqrtf(a)
#define f32_fma_RN(th, a, b, c) f32_fmar(th, a, b, c)
#define f32_add_RZ(a, b)        f32_addd(a, b, RZ)
#define f32_add_RM(a, b)        f32_addd(a, b, RM)
#define f32_add_RP(a, b)        f32_addd(a, b, RP)
#define f32_sub_RZ(a, b)        f32_subd(a, b, RZ)
#define f32_sub_RM(a, b)        f32_subd(a, b, RM)
#define f32_sub_RP(a, b)        f32_subd(a, b, RP)
#define f32_mul_RZ(a, b)        f32_muld(a, b, RZ)
#define f32_mul_RM(a, b)        f32_muld(a, b, RM)
#define f32_mul_RP(a, b)        f32_muld(a, b, RP)
#define f32_div_RZ(a, b)        f32_divd(a, b, RZ)
#define f32_div_RM(a, b)        f32_divd(a, b, RM)
#define f32_div_RP(a, b)        f32_divd(a, b, RP)
#define f32_sqrt_RZ(a)          f32_sqrtd(a, RZ)
#define f32_sqrt_RM(a)          f32_sqrtd(a, RM)
#define f32_sqrt_RP(a)          f32_sqrtd(a, RP)
#define f32_fma_RZ(th, a, b, c) f32_fmad(th, a, b, c, RZ)
#define f32_fma_RM(th, a, b, c) f32_fmad(th, a, b, c, RM)
#define f32_fma_RP(th, a, b, c) f32_fmad(th, a, b, c, RP)
#define f64_add(a, b, r)        f64_add_##r(a, b)
#define f64_sub(a, b, r)        f64_sub_##r(a, b)
#define f64_mul(a, b, r)        f64_mul_##r(a, b)
#define f64_div(a, b, r)        f64_div_##r(a, b)
#define f64_sqrt(a, r)          f64_sqrt_##r(a)
#define f64_fma(th, a, b, c, r) f64_fma_##r(th, a, b, c)
#define f64_add_RN(a, b)        ((a) + (b))
#define f64_sub_RN(a, b)        ((a) - (b))
#define f64_mul_RN(a, b)        ((a) * (b))
#define f64_div_RN(a, b)        ((a) / (b))
#define f64_sqrt_RN(a)          __builtin_sqrt(a)
#define f64_fma_RN(th, a, b, c) f64_fmar(th, a, b, c)
#define f64_add_RZ(a, b)        f64_addd(a, b, RZ)
#define f64_add_RM(a, b)        f64_addd(a, b, RM)
#define f64_add_RP(a, b)        f64_addd(a, b, RP)
#define f64_sub_RZ(a, b)        f64_subd(a, b, RZ)
#define f64_sub_RM(a, b)        f64_subd(a, b, RM)
#define f64_sub_RP(a, b)        f64_subd(a, b, RP)
#define f64_mul_RZ(a, b)        f64_muld(a, b, RZ)
#define f64_mul_RM(a, b)        f64_muld(a, b, RM)
#define f64_mul_RP(a, b)        f64_muld(a, b, RP)
#define f64_div_RZ(a, b)        f64_divd(a, b, RZ)
#define f64_div_RM(a, b)        f64_divd(a, b, RM)
#define f64_div_RP(a, b)        f64_divd(a, b, RP)
#define f64_sqrt_RZ(a)          f64_sqrtd(a, RZ)
#define f64_sqrt_RM(a)          f64_sqrtd(a, RM)
#define f64_sqrt_RP(a)          f64_sqrtd(a, RP)
#define f64_fma_RZ(th, a, b, c) f64_fmad(th, a, b, c, RZ)
#define f64_fma_RM(th, a, b, c) f64_fmad(th, a, b, c, RM)
#define f64_fma_RP(th, a, b, c) f64_fmad(th, a, b, c, RP)

#define NAN32 0x7fffffffu
#define NAN64 0x7fffffffffffffffull

INLINE float f32_abs(float a)
{
    return asf32(asu32(a) & 0x7fffffff);
}
INLINE float f32_neg(float a)
{
    return asf32(asu32(a) ^ 0x80000000);
}
INLINE double f64_abs(double a)
{
    return asf64(asu64(a) & 0x7fffffffffffffff);
}
INLINE double f64_neg(double a)
{
    return asf64(asu64(a) ^ 1ull << 63);
}
INLINE float ftz_f32(float a)
{
    uint32_t u = asu32(a);
    return u & 0x7f800000 ? a : asf32(u & 0x80000000);
}
INLINE float sat_f32(float a)
{
    return a > 0 ? a < 1 ? a : 1 : 0; /* NaN: +0 */
}
INLINE double ftz_f64(double a)
{
    uint64_t u = asu64(a);
    return u & 0x7ff0000000000000 ? a : asf64(u & 1ull << 63);
}
INLINE double sat_f64(double a)
{
    return a > 0 ? a < 1 ? a : 1 : 0;
}

/* -0 < +0; a NaN gives way to a number, except with .NaN. */
#define MINMAX(T, U, t, as, unas, nan)                                                             \
    INLINE T t##_min(T a, T b)                                                                     \
    {                                                                                              \
        if (a < b)                                                                                 \
            return a;                                                                              \
        if (b < a)                                                                                 \
            return b;                                                                              \
        if (a == b)                                                                                \
            return unas(as(a) | as(b));                                                            \
        return a == a ? a : b == b ? b : unas(nan);                                                \
    }                                                                                              \
    INLINE T t##_max(T a, T b)                                                                     \
    {                                                                                              \
        if (a > b)                                                                                 \
            return a;                                                                              \
        if (b > a)                                                                                 \
            return b;                                                                              \
        if (a == b)                                                                                \
            return unas(as(a) & as(b));                                                            \
        return a == a ? a : b == b ? b : unas(nan);                                                \
    }                                                                                              \
    INLINE T t##_minnan(T a, T b)                                                                  \
    {                                                                                              \
        return a != a || b != b ? unas(nan) : t##_min(a, b);                                       \
    }                                                                                              \
    INLINE T t##_maxnan(T a, T b)                                                                  \
    {                                                                                              \
        return a != a || b != b ? unas(nan) : t##_max(a, b);                                       \
    }
MINMAX(float, uint32_t, f32, asu32, asf32, NAN32)
MINMAX(double, uint64_t, f64, asu64, asf64, NAN64)

INLINE float xorsign_f32(float a, float b, float m)
{
    return asf32((asu32(m) & 0x7fffffff) | ((asu32(a) ^ asu32(b)) & 0x80000000));
}

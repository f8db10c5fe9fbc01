/* SPDX-License-Identifier: Apache-2.0
 *
 * Text of the kernel prelude for kernels with 8-bit floating point. e4m3 has no infinity: its
 * largest number is 448, all ones is NaN. e5m2 is the upper half of an f16; its largest is 57344.
 */
#define NAN8 0x7fu

/* |a| beyond the largest number becomes the largest (.satfinite). */
static __attribute__((noinline, unused)) uint32_t e4m3_store(double a, int relu)
{
    double m = f64_abs(a);
    if (a != a)
        return NAN8;
    if (relu && !(a > 0))
        return 0;
    uint32_t sign = (uint32_t)(asu64(a) >> 56) & 0x80;
    if (m >= 448)
        return sign | 0x7e;
    /* From 256 on, the exponent is what other formats keep for infinity. */
    if (m >= 256)
        return sign | (0x78 + (uint32_t)f64_rint((m - 256) * 0.03125));
    return sign | (uint32_t)fp_from_f64(m, 4, 3, RN, NAN8);
}
static __attribute__((noinline, unused)) uint32_t e5m2_store(double a, int relu)
{
    double m = f64_abs(a);
    if (a != a)
        return NAN8;
    if (relu && !(a > 0))
        return 0;
    uint32_t sign = (uint32_t)(asu64(a) >> 56) & 0x80;
    return sign | (m >= 57344 ? 0x7b : (uint32_t)fp_from_f64(m, 5, 2, RN, NAN8));
}
static __attribute__((noinline, unused)) uint16_t e4m3_load(uint32_t v) /* as f16: exact */
{
    uint32_t m = v & 7, x = v >> 3 & 15;
    float f = x ? (float)(8 + m) * asf32((x + 117) << 23) : (float)m * 0x1p-9f;
    if ((v & 0x7f) == NAN8)
        return 0x7fff;
    return (uint16_t)(f16_store(f) | (v & 0x80) << 8);
}
static __attribute__((noinline, unused)) uint16_t e5m2_load(uint32_t v)
{
    return (v & 0x7f) > 0x7c ? 0x7fff : (uint16_t)(v << 8);
}
#define EIGHTS(t)                                                                                  \
    static __attribute__((unused)) uint16_t t##_of_f16x2(uint32_t a, int relu)                     \
    {                                                                                              \
        return (uint16_t)(t##_store((double)f16_load(HI16(a)), relu) << 8 |                        \
                          t##_store((double)f16_load(LO16(a)), relu));                             \
    }                                                                                              \
    static __attribute__((unused)) uint32_t f16x2_of_##t(uint16_t a, int relu)                     \
    {                                                                                              \
        uint16_t low = t##_load(a & 0xff), high = t##_load(a >> 8);                                \
        return relu ? PAIR2(relu_f16(low), relu_f16(high)) : PAIR2(low, high);                     \
    }
EIGHTS(e4m3)
EIGHTS(e5m2)

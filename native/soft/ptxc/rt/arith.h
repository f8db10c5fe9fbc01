/* SPDX-License-Identifier: Apache-2.0
 *
 * Text of the kernel prelude: integer arithmetic as PTX defines it.
 */
#define INT_OPS(S, U, s, u, bits)                                                                  \
    INLINE S div_##s(S a, S b)                                                                     \
    {                                                                                              \
        return b == 0 ? (S) - 1 : b == -1 ? (S)(0 - (U)a) : (S)(a / b);                            \
    }                                                                                              \
    INLINE S rem_##s(S a, S b)                                                                     \
    {                                                                                              \
        return b == 0 ? a : b == -1 ? 0 : (S)(a % b);                                              \
    }                                                                                              \
    INLINE U div_##u(U a, U b)                                                                     \
    {                                                                                              \
        return b ? (U)(a / b) : (U) ~(U)0;                                                         \
    }                                                                                              \
    INLINE U rem_##u(U a, U b)                                                                     \
    {                                                                                              \
        return b ? (U)(a % b) : a;                                                                 \
    }                                                                                              \
    INLINE U shl_b##bits(U a, uint32_t n)                                                          \
    {                                                                                              \
        return n < bits ? (U)(a << n) : 0;                                                         \
    }                                                                                              \
    INLINE U shr_##u(U a, uint32_t n)                                                              \
    {                                                                                              \
        return n < bits ? (U)(a >> n) : 0;                                                         \
    }                                                                                              \
    INLINE S shr_##s(S a, uint32_t n)                                                              \
    {                                                                                              \
        return (S)(a >> (n < bits ? n : bits - 1));                                                \
    }                                                                                              \
    INLINE U shr_b##bits(U a, uint32_t n)                                                          \
    {                                                                                              \
        return shr_##u(a, n);                                                                      \
    }                                                                                              \
    INLINE U sad_##s(S a, S b, U c)                                                                \
    {                                                                                              \
        return (U)(c + (a < b ? (U)b - (U)a : (U)a - (U)b));                                       \
    }                                                                                              \
    INLINE U sad_##u(U a, U b, U c)                                                                \
    {                                                                                              \
        return (U)(c + (a < b ? b - a : a - b));                                                   \
    }
INT_OPS(int16_t, uint16_t, s16, u16, 16)
INT_OPS(int32_t, uint32_t, s32, u32, 32)
INT_OPS(int64_t, uint64_t, s64, u64, 64)

INLINE uint16_t mulhi_u16(uint16_t a, uint16_t b)
{
    return (uint16_t)((uint32_t)a * b >> 16);
}
INLINE int16_t mulhi_s16(int16_t a, int16_t b)
{
    return (int16_t)((int32_t)a * b >> 16);
}
INLINE uint32_t mulhi_u32(uint32_t a, uint32_t b)
{
    return (uint32_t)((uint64_t)a * b >> 32);
}
INLINE int32_t mulhi_s32(int32_t a, int32_t b)
{
    return (int32_t)((int64_t)a * b >> 32);
}
INLINE uint64_t mulhi_u64(uint64_t a, uint64_t b)
{
    return (uint64_t)((u128)a * b >> 64);
}
INLINE int64_t mulhi_s64(int64_t a, int64_t b)
{
    return (int64_t)((__int128)a * b >> 64);
}
INLINE int32_t sat_s32(int64_t v)
{
    return v > INT32_MAX ? INT32_MAX : v < INT32_MIN ? INT32_MIN : (int32_t)v;
}
/* 24 x 24 -> 48 bits: .lo is bits 31..0, .hi bits 47..16 */
INLINE uint32_t mul24lo_u32(uint32_t a, uint32_t b)
{
    return (uint32_t)((uint64_t)(a & 0xffffff) * (b & 0xffffff));
}
INLINE uint32_t mul24hi_u32(uint32_t a, uint32_t b)
{
    return (uint32_t)((uint64_t)(a & 0xffffff) * (b & 0xffffff) >> 16);
}
INLINE int64_t sext24(int32_t a)
{
    return (int32_t)((uint32_t)a << 8) >> 8;
}
INLINE int32_t mul24lo_s32(int32_t a, int32_t b)
{
    return (int32_t)(sext24(a) * sext24(b));
}
INLINE int32_t mul24hi_s32(int32_t a, int32_t b)
{
    return (int32_t)(sext24(a) * sext24(b) >> 16);
}

/* Carry chains: `cc` is the thread's carry flag. */
INLINE uint32_t addx_b32(uint32_t a, uint32_t b, uint32_t in, uint32_t *out)
{
    uint64_t t = (uint64_t)a + b + in;
    *out = (uint32_t)(t >> 32);
    return (uint32_t)t;
}
INLINE uint64_t addx_b64(uint64_t a, uint64_t b, uint32_t in, uint32_t *out)
{
    u128 t = (u128)a + b + in;
    *out = (uint32_t)(t >> 64);
    return (uint64_t)t;
}
INLINE uint32_t subx_b32(uint32_t a, uint32_t b, uint32_t in, uint32_t *out)
{
    uint64_t t = (uint64_t)a - b - in;
    *out = (uint32_t)(t >> 32) & 1;
    return (uint32_t)t;
}
INLINE uint64_t subx_b64(uint64_t a, uint64_t b, uint32_t in, uint32_t *out)
{
    u128 t = (u128)a - b - in;
    *out = (uint32_t)(t >> 64) & 1;
    return (uint64_t)t;
}

INLINE uint32_t popc_b32(uint32_t a)
{
#if defined(__POPCNT__) || defined(__aarch64__)
    return (uint32_t)__builtin_popcount(a);
#else
    a -= a >> 1 & 0x55555555;
    a = (a & 0x33333333) + (a >> 2 & 0x33333333);
    return ((a + (a >> 4)) & 0x0f0f0f0f) * 0x01010101u >> 24;
#endif
}
INLINE uint32_t popc_b64(uint64_t a)
{
    return popc_b32((uint32_t)a) + popc_b32((uint32_t)(a >> 32));
}
INLINE uint32_t clz_b32(uint32_t a)
{
    return a ? (uint32_t)__builtin_clz(a) : 32;
}
INLINE uint32_t clz_b64(uint64_t a)
{
    return a ? (uint32_t)__builtin_clzll(a) : 64;
}
INLINE uint32_t brev_b32(uint32_t a)
{
    a = __builtin_bswap32(a);
    a = (a >> 4 & 0x0f0f0f0f) | (a & 0x0f0f0f0f) << 4;
    a = (a >> 2 & 0x33333333) | (a & 0x33333333) << 2;
    return (a >> 1 & 0x55555555) | (a & 0x55555555) << 1;
}
INLINE uint64_t brev_b64(uint64_t a)
{
    return (uint64_t)brev_b32((uint32_t)a) << 32 | brev_b32((uint32_t)(a >> 32));
}
/* Most significant non-sign bit, or -1. */
INLINE uint32_t bfind_u32(uint32_t a)
{
    return a ? 31 - clz_b32(a) : ~0u;
}
INLINE uint32_t bfind_s32(int32_t a)
{
    return bfind_u32((uint32_t)(a < 0 ? ~a : a));
}
INLINE uint32_t bfind_u64(uint64_t a)
{
    return a ? 63 - clz_b64(a) : ~0u;
}
INLINE uint32_t bfind_s64(int64_t a)
{
    return bfind_u64((uint64_t)(a < 0 ? ~a : a));
}
INLINE uint32_t bfindshift(uint32_t at, uint32_t top)
{
    return at == ~0u ? at : top - at;
}

/* Bit fields: position and length are taken modulo 256. */
#define BITFIELD(U, S, n, bits)                                                                    \
    INLINE U bfe_u##n(U a, uint32_t pos, uint32_t len)                                             \
    {                                                                                              \
        pos &= 255, len &= 255;                                                                    \
        if (!len || pos >= bits)                                                                   \
            return 0;                                                                              \
        a >>= pos;                                                                                 \
        return len >= bits ? a : a & (((U)1 << len) - 1);                                          \
    }                                                                                              \
    INLINE S bfe_s##n(S a, uint32_t pos, uint32_t len)                                             \
    {                                                                                              \
        pos &= 255, len &= 255;                                                                    \
        if (!len)                                                                                  \
            return 0;                                                                              \
        uint32_t top = pos + len - 1;                                                              \
        top = top < bits ? top : bits - 1;                                                         \
        if (pos >= bits)                                                                           \
            return a >> (bits - 1);                                                                \
        return (S)((U)a << (bits - 1 - top)) >> (bits - 1 - top + pos);                            \
    }                                                                                              \
    INLINE U bfi_b##n(U a, U b, uint32_t pos, uint32_t len)                                        \
    {                                                                                              \
        pos &= 255, len &= 255;                                                                    \
        if (!len || pos >= bits)                                                                   \
            return b;                                                                              \
        U mask = (len >= bits ? ~(U)0 : ((U)1 << len) - 1) << pos;                                 \
        return (b & ~mask) | (a << pos & mask);                                                    \
    }
BITFIELD(uint32_t, int32_t, 32, 32)
BITFIELD(uint64_t, int64_t, 64, 64)

INLINE uint32_t bmsk_clamp(uint32_t a, uint32_t b)
{
    return a >= 32 || !b ? 0 : (b >= 32 ? ~0u : (1u << b) - 1) << a;
}
INLINE uint32_t bmsk_wrap(uint32_t a, uint32_t b)
{
    return bmsk_clamp(a & 31, b & 31);
}
INLINE uint32_t szext_u32(uint32_t a, uint32_t n)
{
    return n >= 32 ? a : n ? a & ((1u << n) - 1) : 0;
}
INLINE uint32_t szext_s32(uint32_t a, uint32_t n)
{
    return n >= 32 ? a : n ? (uint32_t)((int32_t)(a << (32 - n)) >> (32 - n)) : 0;
}
INLINE uint32_t fns_b32(uint32_t mask, uint32_t base, int32_t offset)
{
    base &= 31;
    if (offset == 0)
        return mask >> base & 1 ? base : ~0u;
    int step = offset > 0 ? 1 : -1, n = offset > 0 ? offset : -offset;
    for (int at = (int)base; at >= 0 && at < 32; at += step)
        if (mask >> at & 1 && --n == 0)
            return (uint32_t)at;
    return ~0u;
}

INLINE uint32_t shf_l(uint32_t a, uint32_t b, uint32_t n)
{
    return n ? n < 32 ? b << n | a >> (32 - n) : a : b;
}
INLINE uint32_t shf_r(uint32_t a, uint32_t b, uint32_t n)
{
    return n ? n < 32 ? b << (32 - n) | a >> n : b : a;
}
#define shf_l_wrap(a, b, n)  shf_l(a, b, (n) & 31)
#define shf_r_wrap(a, b, n)  shf_r(a, b, (n) & 31)
#define shf_l_clamp(a, b, n) shf_l(a, b, (n) > 32 ? 32 : (n))
#define shf_r_clamp(a, b, n) shf_r(a, b, (n) > 32 ? 32 : (n))

INLINE uint32_t prmt_byte(uint32_t a, uint32_t b, uint32_t sel)
{
    uint64_t both = (uint64_t)b << 32 | a;
    uint32_t byte = (uint32_t)(both >> (8 * (sel & 7))) & 255;
    return sel & 8 ? byte & 128 ? 255 : 0 : byte;
}
INLINE uint32_t prmt_(uint32_t a, uint32_t b, uint32_t c)
{
    return prmt_byte(a, b, c) | prmt_byte(a, b, c >> 4) << 8 | prmt_byte(a, b, c >> 8) << 16 |
           prmt_byte(a, b, c >> 12) << 24;
}
#define PRMT_MODE(name, s0, s1, s2, s3)                                                            \
    INLINE uint32_t prmt_##name(uint32_t a, uint32_t b, uint32_t c)                                \
    {                                                                                              \
        c &= 3;                                                                                    \
        return prmt_byte(a, b, (s0) & 7) | prmt_byte(a, b, (s1) & 7) << 8 |                        \
               prmt_byte(a, b, (s2) & 7) << 16 | prmt_byte(a, b, (s3) & 7) << 24;                  \
    }
PRMT_MODE(f4e, c, c + 1, c + 2, c + 3)
PRMT_MODE(b4e, c, c - 1, c - 2, c - 3)
PRMT_MODE(rc8, c, c, c, c)
PRMT_MODE(ecl, c, c > 1 ? c : 1, c > 2 ? c : 2, 3)
PRMT_MODE(ecr, 0, c < 1 ? c : 1, c < 2 ? c : 2, c)
PRMT_MODE(rc16, (c & 1) * 2, (c & 1) * 2 + 1, (c & 1) * 2, (c & 1) * 2 + 1)

INLINE uint32_t lop3(uint32_t a, uint32_t b, uint32_t c, uint32_t lut)
{
    uint32_t r = 0;
    r |= lut & 1 ? ~a & ~b & ~c : 0;
    r |= lut & 2 ? ~a & ~b & c : 0;
    r |= lut & 4 ? ~a & b & ~c : 0;
    r |= lut & 8 ? ~a & b & c : 0;
    r |= lut & 16 ? a & ~b & ~c : 0;
    r |= lut & 32 ? a & ~b & c : 0;
    r |= lut & 64 ? a & b & ~c : 0;
    r |= lut & 128 ? a & b & c : 0;
    return r;
}

INLINE int32_t dp_part(uint32_t v, int bits, int at, int is_signed)
{
    uint32_t part = v >> (bits * at) & (bits == 8 ? 0xff : 0xffff);
    if (is_signed)
        return bits == 8 ? (int8_t)part : (int16_t)part;
    return (int32_t)part;
}
INLINE uint32_t dp4a(uint32_t a, uint32_t b, uint32_t c, int as, int bs)
{
    for (int i = 0; i < 4; i++)
        c += (uint32_t)dp_part(a, 8, i, as) * (uint32_t)dp_part(b, 8, i, bs);
    return c;
}
INLINE uint32_t dp2a(uint32_t a, uint32_t b, uint32_t c, int as, int bs, int high)
{
    for (int i = 0; i < 2; i++)
        c += (uint32_t)dp_part(a, 16, i, as) * (uint32_t)dp_part(b, 8, i + 2 * high, bs);
    return c;
}

/* Two 16-bit integers in one register. */
#define LANES16(name, C, expr)                                                                     \
    INLINE uint32_t name(uint32_t a2, uint32_t b2)                                                 \
    {                                                                                              \
        uint32_t out = 0;                                                                          \
        for (int i = 0; i < 2; i++) {                                                              \
            C a = (C)(a2 >> (16 * i)), b = (C)(b2 >> (16 * i));                                    \
            out |= (uint32_t)(uint16_t)(expr) << (16 * i);                                         \
        }                                                                                          \
        return out;                                                                                \
    }
LANES16(add_u16x2, uint16_t, a + b)
LANES16(add_s16x2, int16_t, a + b)
LANES16(min_u16x2, uint16_t, a < b ? a : b)
LANES16(min_s16x2, int16_t, a < b ? a : b)
LANES16(max_u16x2, uint16_t, a > b ? a : b)
LANES16(max_s16x2, int16_t, a > b ? a : b)
INLINE uint32_t relu_s16x2(uint32_t a)
{
    return max_s16x2(a, 0);
}

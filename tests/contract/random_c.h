/* SPDX-License-Identifier: Apache-2.0
 *
 * What random C programs are written in: for clang's CUDA mode (device) and for the host, where
 * random_c_host.c is the machine. No operation here has undefined behaviour for any argument, and
 * none shows the bits of a NaN.
 */
typedef signed char i8;
typedef unsigned char u8;
typedef short i16;
typedef unsigned short u16;
typedef int i32;
typedef unsigned u32;
typedef long long i64;
typedef unsigned long long u64;
typedef float f32;
typedef double f64;

#ifdef __CUDA_ARCH__
#define DEVICE   __attribute__((device)) static
#define SHARED   __attribute__((shared)) static
#define CONSTANT __attribute__((constant)) static const
#define KERNEL                                                                                     \
    extern "C" __attribute__((global)) void random_c(const u64 *in, u64 *out, u32 *cells,          \
                                                     u64 *wide_cells)
#define TID                    __nvvm_read_ptx_sreg_tid_x()
#define BID                    __nvvm_read_ptx_sreg_ctaid_x()
#define SYNC()                 __nvvm_bar_sync(0)
#define SYNC_COUNT(p)          ((u32)__nvvm_bar0_popc(p))
#define SHFL_BFLY(mask, v, by) ((u32)__nvvm_shfl_sync_bfly_i32(mask, (i32)(v), by, 31))
#define SHFL_DOWN(mask, v, by) ((u32)__nvvm_shfl_sync_down_i32(mask, (i32)(v), by, 31))
#define SHFL_UP(mask, v, by)   ((u32)__nvvm_shfl_sync_up_i32(mask, (i32)(v), by, 0))
#define SHFL_IDX(mask, v, at)  ((u32)__nvvm_shfl_sync_idx_i32(mask, (i32)(v), at, 31))
#define BALLOT(mask, p)        ((u32)__nvvm_vote_ballot_sync(mask, p))
#define ALL(mask, p)           ((u32)__nvvm_vote_all_sync(mask, p))
#define ANY(mask, p)           ((u32)__nvvm_vote_any_sync(mask, p))
#define MATCH(mask, v)         ((u32)__nvvm_match_any_sync_i32(mask, (i32)(v)))
#else
#define DEVICE        static
#define SHARED        static
#define CONSTANT      static const
#define KERNEL        extern "C" void random_c(const u64 *in, u64 *out, u32 *cells, u64 *wide_cells)
extern "C" u32 host_tid, host_bid;
extern "C" u32 host_barrier(u32 add);
extern "C" u32 host_warp(int what, u32 mask, u32 value, u32 arg);
#define TID           host_tid
#define BID           host_bid
#define SYNC()        host_barrier(0)
#define SYNC_COUNT(p) host_barrier((p) != 0)
#define SHFL_BFLY(mask, v, by) host_warp(0, mask, v, by)
#define SHFL_DOWN(mask, v, by) host_warp(1, mask, v, by)
#define SHFL_UP(mask, v, by)   host_warp(2, mask, v, by)
#define SHFL_IDX(mask, v, at)  host_warp(3, mask, v, at)
#define BALLOT(mask, p)        host_warp(4, mask, (p) != 0, 0)
#define ALL(mask, p)           host_warp(5, mask, (p) != 0, 0)
#define ANY(mask, p)           host_warp(6, mask, (p) != 0, 0)
#define MATCH(mask, v)         host_warp(7, mask, v, 0)
#endif

#define FN       DEVICE inline __attribute__((unused))
#define NOINLINE DEVICE __attribute__((noinline, unused))
#define LIN      (BID * THREADS + TID)
#define IN(k)    in[(u32)(k) * (BLOCKS * THREADS) + LIN]
#define OUT(k)   out[(u32)(k) * (BLOCKS * THREADS) + LIN]

struct mix {
    i64 a;
    u16 b;
    i32 c : 11;
    u32 d : 7;
    f32 e;
    i8 g[3];
};
struct __attribute__((aligned(16))) quad {
    u32 x[4];
};

SHARED u64 box[THREADS];
SHARED u32 box_total[8];
CONSTANT u32 table[16] = {0,  1,   0x80000000, 0x7fffffff, 0xffffffff, 12345,  0xdeadbeef, 31,
                          32, 255, 0x8000,     0x10001,    2654435761, 0xf0f0, 7,          3};

/* W: at least 32 bits wide and unsigned, so that nothing is promoted to a signed type. rot_i64 and
 * rot_u64 turn by less than 32: LLVM 14 shifts by more than there are bits otherwise. */
#define INTEGER(T, U, W, BITS)                                                                     \
    FN T add_##T(T a, T b)                                                                         \
    {                                                                                              \
        return (T)((W)a + (W)b);                                                                   \
    }                                                                                              \
    FN T sub_##T(T a, T b)                                                                         \
    {                                                                                              \
        return (T)((W)a - (W)b);                                                                   \
    }                                                                                              \
    FN T mul_##T(T a, T b)                                                                         \
    {                                                                                              \
        return (T)((W)a * (W)b);                                                                   \
    }                                                                                              \
    FN T mad_##T(T a, T b, T c)                                                                    \
    {                                                                                              \
        return (T)((W)a * (W)b + (W)c);                                                            \
    }                                                                                              \
    FN T neg_##T(T a)                                                                              \
    {                                                                                              \
        return (T)((W)0 - (W)a);                                                                   \
    }                                                                                              \
    FN T shl_##T(T a, u32 n)                                                                       \
    {                                                                                              \
        return (T)((W)a << (n & (BITS - 1)));                                                      \
    }                                                                                              \
    FN T shr_##T(T a, u32 n)                                                                       \
    {                                                                                              \
        return (T)(a >> (n & (BITS - 1)));                                                         \
    }                                                                                              \
    FN bool bad_##T(T a, T b)                                                                      \
    {                                                                                              \
        return b == 0 || ((T) ~(T)0 < 1 && b == (T) ~(T)0 && a == (T)((W)1 << (BITS - 1)));        \
    }                                                                                              \
    FN T div_##T(T a, T b)                                                                         \
    {                                                                                              \
        return bad_##T(a, b) ? a : (T)(a / b);                                                     \
    }                                                                                              \
    FN T rem_##T(T a, T b)                                                                         \
    {                                                                                              \
        return bad_##T(a, b) ? b : (T)(a % b);                                                     \
    }                                                                                              \
    FN T rot_##T(T a, u32 n)                                                                       \
    {                                                                                              \
        n &= BITS == 64 ? 31 : BITS - 1;                                                           \
        return n ? (T)(U)((W)(U)a << n | (W)(U)a >> (BITS - n)) : a;                               \
    }                                                                                              \
    FN T min_##T(T a, T b)                                                                         \
    {                                                                                              \
        return a < b ? a : b;                                                                      \
    }                                                                                              \
    FN T max_##T(T a, T b)                                                                         \
    {                                                                                              \
        return a > b ? a : b;                                                                      \
    }                                                                                              \
    FN T abs_##T(T a)                                                                              \
    {                                                                                              \
        return a < 0 ? neg_##T(a) : a;                                                             \
    }                                                                                              \
    FN T avg_##T(T a, T b)                                                                         \
    {                                                                                              \
        return (T)((a & b) + ((a ^ b) >> 1));                                                      \
    }                                                                                              \
    FN T popc_##T(T a)                                                                             \
    {                                                                                              \
        return (T)__builtin_popcountll((U)a);                                                      \
    }                                                                                              \
    FN T clz_##T(T a)                                                                              \
    {                                                                                              \
        return (T)((U)a == 0    ? BITS                                                             \
                   : BITS == 64 ? __builtin_clzll((U)a)                                            \
                                : __builtin_clz((u32)(U)a) - (32 - (BITS & 63)));                  \
    }                                                                                              \
    FN T ctz_##T(T a)                                                                              \
    {                                                                                              \
        return (T)(a ? __builtin_ctzll((U)a) : BITS);                                              \
    }                                                                                              \
    FN T swap_##T(T a)                                                                             \
    {                                                                                              \
        return (T)(BITS == 64 ? __builtin_bswap64((U)a) : __builtin_bswap32((u32)(U)a));           \
    }                                                                                              \
    FN T rev_##T(T a)                                                                              \
    {                                                                                              \
        return (T)(BITS == 64 ? __builtin_bitreverse64((U)a) : __builtin_bitreverse32((u32)(U)a)); \
    }                                                                                              \
    FN T over_##T(T a, T b)                                                                        \
    {                                                                                              \
        T sum;                                                                                     \
        return (T)(__builtin_add_overflow(a, b, &sum) ? b : sum);                                  \
    }                                                                                              \
    FN T sat_##T(T a, T b)                                                                         \
    {                                                                                              \
        T rest;                                                                                    \
        return (T)(__builtin_sub_overflow(a, b, &rest) ? (a < b ? 1 : 2) : rest);                  \
    }                                                                                              \
    FN T of_##T##_f32(f32 x)                                                                       \
    {                                                                                              \
        return x > (f32)LOW(T, BITS) && x < (f32)HIGH(T, BITS) ? (T)x : (T)17;                     \
    }                                                                                              \
    FN T of_##T##_f64(f64 x)                                                                       \
    {                                                                                              \
        return x > LOW(T, BITS) && x < HIGH(T, BITS) ? (T)x : (T)17;                               \
    }
#define LOW(T, BITS)  ((T) ~(T)0 < 1 ? -(f64)(1ull << (BITS - 1)) : -1.0)
#define HIGH(T, BITS) ((f64)(1ull << (BITS - 1)) * ((T) ~(T)0 < 1 ? 1 : 2))

INTEGER(i8, u8, u32, 8)
INTEGER(u8, u8, u32, 8)
INTEGER(i16, u16, u32, 16)
INTEGER(u16, u16, u32, 16)
INTEGER(i32, u32, u32, 32)
INTEGER(u32, u32, u32, 32)
INTEGER(i64, u64, u64, 64)
INTEGER(u64, u64, u64, 64)

FN u32 high_u32(u32 a, u32 b)
{
    return (u32)((u64)a * b >> 32);
}
FN i32 high_i32(i32 a, i32 b)
{
    return (i32)((i64)a * b >> 32);
}
FN u64 high_u64(u64 a, u64 b)
{
    return (u64)((unsigned __int128)a * b >> 64);
}
FN i64 high_i64(i64 a, i64 b)
{
    return (i64)((__int128)a * b >> 64);
}
FN u64 wide_u64(u32 a, u32 b)
{
    return (u64)a * b;
}
FN i64 wide_i64(i32 a, i32 b)
{
    return (i64)a * b;
}
FN u32 funnel_u32(u32 a, u32 b, u32 n)
{
    return (u32)((((u64)a << 32) | b) >> (n & 31));
}
FN i32 small_i32(i32 a, i32 b)
{
    return (a & 0x7fff) * (b & 0x7fff) + (a >> 17);
}

#define FLOATING(T, U, SUFFIX, NAN_BITS, SIGN)                                                     \
    FN U bits_##T(T x)                                                                             \
    {                                                                                              \
        U u;                                                                                       \
        __builtin_memcpy(&u, &x, sizeof(u));                                                       \
        return x == x ? u : NAN_BITS;                                                              \
    }                                                                                              \
    FN T of_bits_##T(U u)                                                                          \
    {                                                                                              \
        T x;                                                                                       \
        __builtin_memcpy(&x, &u, sizeof(x));                                                       \
        return x;                                                                                  \
    }                                                                                              \
    FN T min_##T(T a, T b)                                                                         \
    {                                                                                              \
        return a < b ? a : b;                                                                      \
    }                                                                                              \
    FN T max_##T(T a, T b)                                                                         \
    {                                                                                              \
        return a > b ? a : b;                                                                      \
    }                                                                                              \
    FN T sign_##T(T a, T b)                                                                        \
    {                                                                                              \
        return __builtin_copysign##SUFFIX(a, b == b ? b : (T)1);                                   \
    }                                                                                              \
    FN T root_##T(T a)                                                                             \
    {                                                                                              \
        return __builtin_sqrt##SUFFIX(a);                                                          \
    }

FLOATING(f32, u32, f, 0x7fc00000u, 0x80000000u)
FLOATING(f64, u64, , 0x7ff8000000000000ull, 0x8000000000000000ull)

#define HALF(name, expression)                                                                     \
    FN f32 half_##name(f32 x, f32 y)                                                               \
    {                                                                                              \
        __fp16 a = (__fp16)x, b = (__fp16)y;                                                       \
        __fp16 c = (__fp16)(expression);                                                           \
        return (f32)c;                                                                             \
    }
HALF(add, a + b)
HALF(sub, a - b)
HALF(mul, a *b)
HALF(less, a < b ? a : b)
HALF(neg, -a)

NOINLINE u32 twist(u32 a, u32 b)
{
    return rot_u32(a * 2654435761u + b, 13);
}
NOINLINE u32 fold(u32 a, u32 b)
{
    return (a ^ b >> 3) + (a << 2);
}
NOINLINE u32 tell(u32 a, u32 b)
{
    return a < b ? b - a : a * 3 + TID;
}
NOINLINE u32 dive(u32 a, u32 b)
{
    if ((a & 7) == 0)
        return b ^ a;
    return dive(a - 1, b * 5 + a) + (dive((a & 7) >> 1, b) | 1);
}
typedef u32 (*binary)(u32, u32);
DEVICE const binary functions[4] = {twist, fold, tell, dive};
NOINLINE u32 pick(binary f, u32 a, u32 b)
{
    return f(a, b) + f(b, a & 3);
}

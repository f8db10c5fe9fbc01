/* SPDX-License-Identifier: Apache-2.0
 *
 * What a kernel of the corpus is written in: CUDA's dialect on the device, C++ with shims on the
 * host. A kernel reads 64 bytes and writes 128 bytes of its own; all share `cells`.
 */
#ifndef HARP_PTX_CORPUS_H
#define HARP_PTX_CORPUS_H

typedef signed char i8;
typedef unsigned char u8;
typedef short i16;
typedef unsigned short u16;
typedef int i32;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;
typedef __int128 i128;
typedef unsigned __int128 u128;

#define ALIGN(n) __attribute__((aligned(n)))
#define NOINLINE __attribute__((noinline))

#ifdef __CUDA__
#define KERNEL          extern "C" __attribute__((global))
#define DEVICE          __attribute__((device))
#define SHARED          __attribute__((shared))
#define CONST           __attribute__((constant))
#define BLOCK_THREADS() __nvvm_read_ptx_sreg_ntid_x()
#define THREAD()        __nvvm_read_ptx_sreg_tid_x()
#define BLOCK()         __nvvm_read_ptx_sreg_ctaid_x()
#define SYNC()          __nvvm_bar_sync(0)
#define SYNC_COUNT(p)   ((u32)__nvvm_bar0_popc(p))
#define SYNC_AND(p)     (__nvvm_bar0_and(p) != 0)
#define SYNC_OR(p)      (__nvvm_bar0_or(p) != 0)
#define SHFL_IDX(v, i)  ((u32)__nvvm_shfl_sync_idx_i32(~0u, (int)(v), (int)(i), 31))
#define SHFL_UP(v, n)   ((u32)__nvvm_shfl_sync_up_i32(~0u, (int)(v), (int)(n), 0))
#define SHFL_DOWN(v, n) ((u32)__nvvm_shfl_sync_down_i32(~0u, (int)(v), (int)(n), 31))
#define SHFL_XOR(v, n)  ((u32)__nvvm_shfl_sync_bfly_i32(~0u, (int)(v), (int)(n), 31))
#define BALLOT(p)       ((u32)__nvvm_vote_ballot_sync(~0u, (p) != 0))
#define ALL(p)          (__nvvm_vote_all_sync(~0u, (p) != 0) != 0)
#define ANY(p)          (__nvvm_vote_any_sync(~0u, (p) != 0) != 0)
#define UNIFORM(p)      (__nvvm_vote_uni_sync(~0u, (p) != 0) != 0)
#define MATCH_ANY(v)    ((u32)__nvvm_match_any_sync_i32(~0u, (int)(v)))
#define WARP_SYNC()     __nvvm_bar_warp_sync(~0u)
#else
#define KERNEL extern "C" __attribute__((visibility("default")))
#define DEVICE
#define SHARED          static
#define CONST           static const
extern "C" u32 host_thread(void), host_block(void), host_block_threads(void);
extern "C" void host_sync(void);
extern "C" u32 host_count(u32 p), host_exchange(u32 v, u32 from), host_ballot(u32 p);
#define BLOCK_THREADS() host_block_threads()
#define THREAD()        host_thread()
#define BLOCK()         host_block()
#define SYNC()          host_sync()
#define SYNC_COUNT(p)   host_count((p) != 0)
#define SYNC_AND(p)     (host_count((p) != 0) == host_block_threads())
#define SYNC_OR(p)      (host_count((p) != 0) != 0)
#define SHFL_IDX(v, i)  host_exchange(v, (i) & 31)
#define SHFL_UP(v, n)                                                                              \
    host_exchange(v, (THREAD() & 31) >= (u32)(n) ? (THREAD() & 31) - (n) : THREAD() & 31)
#define SHFL_DOWN(v, n)                                                                            \
    host_exchange(v, (THREAD() & 31) + (n) < 32 ? (THREAD() & 31) + (n) : THREAD() & 31)
#define SHFL_XOR(v, n) host_exchange(v, (THREAD() & 31) ^ (n))
#define BALLOT(p)      host_ballot((p) != 0)
#define ALL(p)         (host_ballot((p) != 0) == ~0u)
#define ANY(p)         (host_ballot((p) != 0) != 0)
#define UNIFORM(p)     (host_ballot((p) != 0) + 1 < 2)
static inline u32 MATCH_ANY(u32 v)
{
    u32 all = 0;
    for (u32 i = 0; i < 32; i++)
        all |= (u32)(host_exchange(v, i) == v) << i;
    return all;
}
#define WARP_SYNC()    (void)host_ballot(0)
#endif

#define ARGS   const u8 *in, u8 *out, u32 *cells
#define HERE() (BLOCK() * BLOCK_THREADS() + THREAD())

/* Input number k, as T. */
template <class T> DEVICE static inline T get(const u8 *in, int k)
{
    T v;
    __builtin_memcpy(&v, in + HERE() * 64 + k * sizeof(T), sizeof(T));
    return v;
}
/* 8 bytes of output a slot, 16 slots. */
template <class T> DEVICE static inline void put(u8 *out, int slot, T v)
{
    __builtin_memcpy(out + HERE() * 128 + slot * 8, &v, sizeof(T));
}
/* NaNs have no payload that is promised. */
DEVICE static inline void putf(u8 *out, int slot, float v)
{
    put(out, slot, v == v ? v : 7e7f);
}
DEVICE static inline void putd(u8 *out, int slot, double v)
{
    put(out, slot, v == v ? v : 7e7);
}
/* A number of moderate size from any bits. */
DEVICE static inline float tame(u32 bits)
{
    return (float)(i32)bits * 4.6566128730773926e-07f;
}
DEVICE static inline double tamed(u64 bits)
{
    return (double)(i64)bits * 1.0842021724855044e-15;
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#include "corpus.h"

KERNEL void block_sum(ARGS)
{
    SHARED u32 part[128];
    u32 t = THREAD();
    part[t] = get<u32>(in, 0);
    SYNC();
    for (u32 step = 64; step; step >>= 1) {
        if (t < step && t + step < BLOCK_THREADS())
            part[t] += part[t + step];
        SYNC();
    }
    put(out, 0, part[0]);
    if (t == 0)
        __atomic_fetch_add(&cells[0], part[0], __ATOMIC_RELAXED);
}

KERNEL void block_scan(ARGS)
{
    SHARED u64 v[2][128];
    u32 t = THREAD(), from = 0;
    v[0][t] = get<u64>(in, 0);
    SYNC();
    for (u32 step = 1; step < BLOCK_THREADS(); step <<= 1, from ^= 1) {
        v[from ^ 1][t] = t >= step ? v[from][t] + v[from][t - step] : v[from][t];
        SYNC();
    }
    put(out, 0, v[from][t]);
}

KERNEL void block_sort(ARGS)
{
    SHARED i16 keys[96];
    u32 t = THREAD();
    keys[t] = get<i16>(in, 0);
    SYNC();
    for (u32 round = 0; round < 96; round++) {
        u32 a = 2 * t + (round & 1);
        if (a + 1 < 96 && keys[a] > keys[a + 1]) {
            i16 k = keys[a];
            keys[a] = keys[a + 1];
            keys[a + 1] = k;
        }
        SYNC();
    }
    put(out, 0, keys[t]);
}

KERNEL void block_votes(ARGS)
{
    u32 v = get<u32>(in, 0);
    put<u32>(out, 0, SYNC_COUNT(v & 1));
    put<u32>(out, 1, SYNC_AND(v % 97 != 0));
    put<u32>(out, 2, SYNC_OR(v % 50 == 0));
}

KERNEL void warp_exchange(ARGS)
{
    u32 v = get<u32>(in, 0), sum = v, low = v;
    put<u32>(out, 0, SHFL_IDX(v, get<u32>(in, 1)));
    put<u32>(out, 1, SHFL_UP(v, 3));
    put<u32>(out, 2, SHFL_DOWN(v, 7));
    for (u32 n = 16; n; n >>= 1) {
        sum += SHFL_XOR(sum, n);
        u32 other = SHFL_XOR(low, n);
        low = other < low ? other : low;
    }
    put(out, 3, sum), put(out, 4, low);
    u32 scan = v;
    for (u32 n = 1; n < 32; n <<= 1) {
        u32 other = SHFL_UP(scan, n);
        if ((THREAD() & 31) >= n)
            scan += other;
    }
    put(out, 5, scan);
}

KERNEL void warp_votes(ARGS)
{
    u32 v = get<u32>(in, 0);
    put<u32>(out, 0, BALLOT(v & 1));
    put<u32>(out, 1, ALL(v | 1) | ANY(v % 40 == 0) << 1 | UNIFORM(v > 5) << 2);
    put<u32>(out, 2, MATCH_ANY(v & 3));
    WARP_SYNC();
    put<u32>(out, 3, __builtin_popcount(BALLOT(v & 2) & ((1u << (THREAD() & 31)) - 1)));
}

KERNEL void atomics_32(ARGS)
{
    u32 v = get<u32>(in, 0);
    __atomic_fetch_add(&cells[0], v, __ATOMIC_RELAXED);
    __atomic_fetch_sub(&cells[1], v, __ATOMIC_SEQ_CST);
    __atomic_fetch_or(&cells[2], v & 0xf0f0f0f0, __ATOMIC_ACQ_REL);
    __atomic_fetch_and(&cells[3], v | 0xff00, __ATOMIC_ACQUIRE);
    __atomic_fetch_xor(&cells[4], v, __ATOMIC_RELEASE);
    __atomic_fetch_max(&cells[5], v, __ATOMIC_RELAXED);
    __atomic_fetch_min((i32 *)&cells[6], (i32)v, __ATOMIC_RELAXED);
    u32 seen = __atomic_load_n(&cells[7], __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(&cells[7], &seen, seen + (v & 15), 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        ;
    __atomic_store_n(&cells[10], 77, __ATOMIC_RELAXED);
}

KERNEL void atomics_64(ARGS)
{
    u64 v = get<u64>(in, 0), *wide = (u64 *)cells;
    __atomic_fetch_add(&wide[0], v, __ATOMIC_RELAXED);
    __atomic_fetch_or(&wide[1], v & 0xf0f0f0f0f0f0f0f0, __ATOMIC_SEQ_CST);
    __atomic_fetch_and(&wide[2], v | 0xff00, __ATOMIC_RELAXED);
    __atomic_fetch_xor(&wide[3], v, __ATOMIC_RELAXED);
    __atomic_fetch_max((i64 *)&wide[4], (i64)v, __ATOMIC_RELAXED);
    __atomic_fetch_min(&wide[5], v, __ATOMIC_RELAXED);
    u64 seen = __atomic_load_n(&wide[7], __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(&wide[7], &seen, seen + (v & 15), 1, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
        ;
    double *real = (double *)&wide[8];
    __atomic_fetch_add(real, (double)(v & 0xff), __ATOMIC_RELAXED);
    __atomic_fetch_add((float *)&wide[9], (float)(v & 0xff), __ATOMIC_RELAXED);
}

KERNEL void shared_histogram(ARGS)
{
    SHARED u32 bins[16];
    if (THREAD() < 16)
        bins[THREAD()] = 0;
    SYNC();
    for (int i = 0; i < 16; i++)
        __atomic_fetch_add(&bins[get<u32>(in, i) & 15], 1, __ATOMIC_RELAXED);
    SYNC();
    if (THREAD() < 16)
        __atomic_fetch_add(&cells[THREAD()], bins[THREAD()], __ATOMIC_RELAXED);
}

/* One thread of each warp at a time: progress needs fairness among diverged threads. */
KERNEL void spin_lock(ARGS)
{
    bool done = false;
    while (!done) {
        if (__atomic_exchange_n(&cells[0], 1, __ATOMIC_ACQUIRE) == 0) {
            cells[1] = cells[1] * 1 + get<u32>(in, 0);
            cells[2] += 1;
            u32 held = 1; /* no store: clang 14 has none that releases */
            __atomic_compare_exchange_n(&cells[0], &held, 0, 0, __ATOMIC_RELEASE, __ATOMIC_RELAXED);
            done = true;
        }
    }
}

KERNEL void transposed(ARGS)
{
    SHARED float tile[8][12 + 1];
    u32 t = THREAD(), r = t / 12, c = t % 12;
    tile[r][c] = tame(get<u32>(in, 0));
    SYNC();
    float sum = 0;
    for (u32 k = 0; k < 8; k++)
        sum = __builtin_fmaf(tile[k][c], tile[r][k], sum);
    putf(out, 0, sum);
    putf(out, 1, tile[t % 8][t / 8]);
}

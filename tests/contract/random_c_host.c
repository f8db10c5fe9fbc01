/* SPDX-License-Identifier: Apache-2.0
 *
 * A grid of threads on the host: one after another, a fiber each. The model for random C programs.
 * Input: struct launch, then the words of `in`; output: `out`, cells and wide cells.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

enum { THREADS_MAX = 256, STACK = 256 << 10, CELLS = 16, TABLE = 64 };

struct launch {
    uint32_t blocks, threads, in_words, out_words;
};

/* Where the lanes of one mask meet: values of this meeting and of the one before. */
struct meeting {
    uint32_t mask, come, round, value[2][32];
};

uint32_t host_tid, host_bid;
extern void random_c(const uint64_t *in, uint64_t *out, uint32_t *cells, uint64_t *wide_cells);

static ucontext_t loop, fibers[THREADS_MAX];
static char *stacks;
static int done[THREADS_MAX];
static uint64_t *in, *out, wide_cells[CELLS];
static uint32_t cells[CELLS];
static uint32_t threads, come, rounds, counts[2];
static struct meeting meetings[THREADS_MAX / 32][TABLE];

static void yield(void)
{
    uint32_t mine = host_tid;
    swapcontext(&fibers[mine], &loop);
    host_tid = mine;
}

uint32_t host_barrier(uint32_t add)
{
    uint32_t round = rounds;
    counts[round & 1] += add;
    if (++come == threads) {
        come = 0;
        counts[~round & 1] = 0;
        rounds++;
    }
    while (rounds == round)
        yield();
    return counts[round & 1];
}

static uint32_t answer(int what, uint32_t mask, const uint32_t *value, uint32_t arg)
{
    uint32_t lane = host_tid & 31, from = lane, bits = 0;
    switch (what) {
    case 0:
        from = lane ^ (arg & 31);
        break;
    case 1:
        from = lane + (arg & 31) < 32 ? lane + (arg & 31) : lane;
        break;
    case 2:
        from = lane >= (arg & 31) ? lane - (arg & 31) : lane;
        break;
    case 3:
        from = arg & 31;
        break;
    default:
        for (uint32_t i = 0; i < 32; i++)
            if (mask >> i & 1)
                bits |= (uint32_t)(what == 7 ? value[i] == value[lane] : value[i] != 0) << i;
        return what == 5 ? bits == mask : what == 6 ? bits != 0 : bits;
    }
    if (!(mask >> from & 1))
        exit(4); /* a lane that is not there: the program is wrong */
    return value[from];
}

uint32_t host_warp(int what, uint32_t mask, uint32_t value, uint32_t arg)
{
    struct meeting *at = meetings[host_tid / 32];
    while (at->mask != mask && at->mask)
        if (++at == meetings[host_tid / 32] + TABLE)
            exit(5);
    at->mask = mask;
    uint32_t round = at->round;
    if (!(mask >> (host_tid & 31) & 1))
        exit(4);
    at->value[round & 1][host_tid & 31] = value;
    if (++at->come == (uint32_t)__builtin_popcount(mask)) {
        at->come = 0;
        at->round++;
    }
    while (at->round == round)
        yield();
    return answer(what, mask, at->value[round & 1], arg);
}

static void fiber(void)
{
    random_c(in, out, cells, wide_cells);
    done[host_tid] = 1;
    for (;;)
        yield();
}

static void run_block(void)
{
    come = rounds = 0;
    memset(counts, 0, sizeof counts);
    memset(meetings, 0, sizeof meetings);
    for (uint32_t i = 0; i < threads; i++) {
        done[i] = 0;
        getcontext(&fibers[i]);
        fibers[i].uc_stack.ss_sp = stacks + (size_t)i * STACK;
        fibers[i].uc_stack.ss_size = STACK;
        makecontext(&fibers[i], fiber, 0);
    }
    for (uint32_t left = threads; left;) {
        left = 0;
        for (host_tid = 0; host_tid < threads; host_tid++) {
            uint32_t i = host_tid;
            if (!done[i]) {
                swapcontext(&loop, &fibers[i]);
                host_tid = i;
            }
            left += !done[i];
        }
    }
}

int main(void)
{
    struct launch launch;
    alarm(20);
    if (fread(&launch, sizeof launch, 1, stdin) != 1 || launch.threads > THREADS_MAX)
        return 2;
    in = malloc(8 * (size_t)launch.in_words);
    out = calloc(8, launch.out_words);
    stacks = malloc((size_t)THREADS_MAX * STACK);
    if (!in || !out || !stacks || fread(in, 8, launch.in_words, stdin) != launch.in_words)
        return 2;
    threads = launch.threads;
    for (host_bid = 0; host_bid < launch.blocks; host_bid++)
        run_block();
    fwrite(out, 8, launch.out_words, stdout);
    fwrite(cells, 4, CELLS, stdout);
    fwrite(wide_cells, 8, CELLS, stdout);
    return 0;
}

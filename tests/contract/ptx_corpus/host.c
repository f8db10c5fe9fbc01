/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs a kernel of the corpus on the host: one thread of the host for each of a block's.
 */
#include <pthread.h>
#include <stdlib.h>

typedef unsigned char u8;
typedef unsigned int u32;
typedef void (*kernel)(const u8 *, u8 *, u32 *);

enum { MOST = 128 };
static __thread u32 thread, block;
static u32 threads, exchanged[MOST];
static pthread_barrier_t meeting, warps[MOST / 32];

/* Nearest, ties to even; the library of the compiler has none on every system. */
__bf16 __truncsfbf2(float v)
{
    u32 u;
    __builtin_memcpy(&u, &v, 4);
    unsigned short bits = v != v ? 0x7fff : (unsigned short)((u + 0x7fff + (u >> 16 & 1)) >> 16);
    __bf16 narrow;
    __builtin_memcpy(&narrow, &bits, 2);
    return narrow;
}

struct job {
    kernel run;
    const u8 *in;
    u8 *out;
    u32 *cells;
    u32 thread, block;
};

u32 host_thread(void)
{
    return thread;
}
u32 host_block(void)
{
    return block;
}
u32 host_block_threads(void)
{
    return threads;
}
void host_sync(void)
{
    pthread_barrier_wait(&meeting);
}
static void warp_sync(void)
{
    pthread_barrier_wait(&warps[thread / 32]);
}

u32 host_count(u32 p)
{
    exchanged[thread] = p;
    host_sync();
    u32 sum = 0;
    for (u32 i = 0; i < threads; i++)
        sum += exchanged[i];
    host_sync();
    return sum;
}

u32 host_exchange(u32 v, u32 from)
{
    exchanged[thread] = v;
    warp_sync();
    u32 got = exchanged[thread / 32 * 32 + from];
    warp_sync();
    return got;
}

u32 host_ballot(u32 p)
{
    exchanged[thread] = p;
    warp_sync();
    u32 mask = 0;
    for (u32 i = 0; i < 32; i++)
        mask |= exchanged[thread / 32 * 32 + i] << i;
    warp_sync();
    return mask;
}

static void *one(void *arg)
{
    struct job *j = arg;
    thread = j->thread, block = j->block;
    j->run(j->in, j->out, j->cells);
    return 0;
}

__attribute__((visibility("default"))) int host_run(kernel run, const u8 *in, u8 *out, u32 *cells,
                                                    u32 blocks, u32 count)
{
    if (count % 32 || count > MOST)
        return 1;
    threads = count;
    pthread_barrier_init(&meeting, 0, count);
    for (u32 w = 0; w < count / 32; w++)
        pthread_barrier_init(&warps[w], 0, 32);
    for (u32 b = 0; b < blocks; b++) {
        pthread_t ids[MOST];
        struct job jobs[MOST];
        for (u32 t = 0; t < count; t++) {
            jobs[t] = (struct job){run, in, out, cells, t, b};
            if (pthread_create(&ids[t], 0, one, &jobs[t]))
                abort();
        }
        for (u32 t = 0; t < count; t++)
            pthread_join(ids[t], 0);
    }
    return 0;
}

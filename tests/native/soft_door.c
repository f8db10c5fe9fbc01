/* SPDX-License-Identifier: Apache-2.0
 *
 * A door keeps every argument of a call, in integer and float registers and on the stack, whatever
 * soft_door() does to them; answers in the call's stead; and is asked once a call, or not at all.
 */
#include "soft/gpu/door.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #cond);                     \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)

int probe_integers(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f,
                   uint64_t g, uint64_t h, uint64_t i, uint64_t j, uint64_t k, uint64_t l);
int probe_floats(double a, float b, double c, float d, double e, float f, double g, float h,
                 double i, float j);
int probe_mixed(void *a, int b, float c, uint64_t d, double e, unsigned short f, float g,
                signed char h, uint64_t i, double j, int k, double l, double m, double n, double o,
                double p, uint64_t q);
int soft_probe_integers(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f,
                        uint64_t g, uint64_t h, uint64_t i, uint64_t j, uint64_t k, uint64_t l);
int soft_probe_floats(double a, float b, double c, float d, double e, float f, double g, float h,
                      double i, float j);
int soft_probe_mixed(void *a, int b, float c, uint64_t d, double e, unsigned short f, float g,
                     signed char h, uint64_t i, double j, int k, double l, double m, double n,
                     double o, double p, uint64_t q);

static uint32_t word;
const uint32_t *soft_door_word = &word;

static uint64_t answer;
static unsigned asked;
static uint32_t symbol_seen;
static uint64_t args_seen[6];
static uint64_t sink;

/* What a C function may do to registers that carry arguments, done for certain. */
static void clobber(void)
{
#if defined(__x86_64__)
    __asm__ volatile("pcmpeqd %%xmm0, %%xmm0\n movaps %%xmm0, %%xmm1\n movaps %%xmm0, %%xmm2\n"
                     "movaps %%xmm0, %%xmm3\n movaps %%xmm0, %%xmm4\n movaps %%xmm0, %%xmm5\n"
                     "movaps %%xmm0, %%xmm6\n movaps %%xmm0, %%xmm7\n"
                     "mov $-1, %%rdi\n mov $-1, %%rsi\n mov $-1, %%rdx\n mov $-1, %%rcx\n"
                     "mov $-1, %%r8\n mov $-1, %%r9\n mov $-1, %%r10\n mov $-1, %%r11\n"
                     :
                     :
                     : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "rdi", "rsi",
                       "rdx", "rcx", "r8", "r9", "r10", "r11");
#elif defined(__aarch64__)
    __asm__ volatile("movi v0.16b, #255\n movi v1.16b, #255\n movi v2.16b, #255\n"
                     "movi v3.16b, #255\n movi v4.16b, #255\n movi v5.16b, #255\n"
                     "movi v6.16b, #255\n movi v7.16b, #255\n"
                     "mov x0, #-1\n mov x1, #-1\n mov x2, #-1\n mov x3, #-1\n mov x4, #-1\n"
                     "mov x5, #-1\n mov x6, #-1\n mov x7, #-1\n mov x8, #-1\n mov x16, #-1\n"
                     "mov x17, #-1\n"
                     :
                     :
                     : "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "x0", "x1", "x2", "x3", "x4",
                       "x5", "x6", "x7", "x8", "x16", "x17");
#endif
}

uint64_t soft_door(uint32_t symbol, const uint64_t *args)
{
    /* a call aligned as the ABI says; the sanitizer looks at this too */
    _Alignas(16) volatile uint64_t aligned[2] = {1, 2};

    asked += ((uintptr_t)aligned & 15) == 0;
    symbol_seen = symbol;
    memcpy(args_seen, args, sizeof args_seen);
    sink += aligned[0];
    clobber();
    return answer;
}

int soft_probe_integers(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f,
                        uint64_t g, uint64_t h, uint64_t i, uint64_t j, uint64_t k, uint64_t l)
{
    return a == 1 && b == 1ull << 63 && c == 3 && d == 4 && e == 5 && f == ~0ull && g == 7 &&
                   h == 8 && i == 9 && j == 10 && k == 11 && l == 12
               ? 77
               : -1;
}

int soft_probe_floats(double a, float b, double c, float d, double e, float f, double g, float h,
                      double i, float j)
{
    return a == 0.5 && b == 1.5f && c == -2.5 && d == 3.5f && e == 1e300 && f == 5.5f && g == 6.5 &&
                   h == -7.5f && i == 8.5 && j == 9.5f
               ? 78
               : -1;
}

int soft_probe_mixed(void *a, int b, float c, uint64_t d, double e, unsigned short f, float g,
                     signed char h, uint64_t i, double j, int k, double l, double m, double n,
                     double o, double p, uint64_t q)
{
    return a == &word && b == -2 && c == 3.25f && d == 4 && e == 5.25 && f == 6 && g == 7.25f &&
                   h == -8 && i == 9 && j == 10.25 && k == -11 && l == 12.25 && m == 13.25 &&
                   n == 14.25 && o == 15.25 && p == 16.25 && q == 17
               ? 79
               : -1;
}

static int integers(void)
{
    return probe_integers(1, 1ull << 63, 3, 4, 5, ~0ull, 7, 8, 9, 10, 11, 12);
}

static int floats(void)
{
    return probe_floats(0.5, 1.5f, -2.5, 3.5f, 1e300, 5.5f, 6.5, -7.5f, 8.5, 9.5f);
}

static int mixed(void)
{
    return probe_mixed(&word, -2, 3.25f, 4, 5.25, 6, 7.25f, -8, 9, 10.25, -11, 12.25, 13.25, 14.25,
                       15.25, 16.25, 17);
}

int main(void)
{
    static const uint32_t words[] = {1, 0x80000000u, ~0u};

    CHECK(integers() == 77 && floats() == 78 && mixed() == 79 && asked == 0);
    for (unsigned i = 0; i < 3; i++) {
        word = words[i];
        asked = 0;
        answer = 0x12345678; /* without bit 32: no answer */
        CHECK(integers() == 77 && asked == 1 && symbol_seen == 0);
        CHECK(args_seen[0] == 1 && args_seen[1] == 1ull << 63 && args_seen[5] == ~0ull);
        CHECK(floats() == 78 && asked == 2 && symbol_seen == 1);
        CHECK(mixed() == 79 && asked == 3 && symbol_seen == 60000);
        CHECK(args_seen[0] == (uint64_t)(uintptr_t)&word && (int)args_seen[1] == -2);
        answer = SOFT_DOOR_ANSWER(2);
        CHECK(integers() == 2 && floats() == 2 && mixed() == 2 && asked == 6);
        answer = SOFT_DOOR_ANSWER(0);
        CHECK(mixed() == 0);
        answer = SOFT_DOOR_ANSWER(-5);
        CHECK(mixed() == -5);
    }
    word = 0;
    CHECK(mixed() == 79 && asked == 8);
    return 0;
}

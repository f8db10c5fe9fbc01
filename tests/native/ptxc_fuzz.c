/* SPDX-License-Identifier: Apache-2.0
 *
 * Damaged PTX through the index and the translator, under the sanitizers: every text ends in an
 * answer or in one line of explanation, and nothing leaks. HARP_TEST_SEED, HARP_FUZZ_S set the seed
 * and the seconds; a file as argument is tried as it is.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "soft/ptxc/emit.h"
#include "soft/ptxc/ptx_index.h"

static const char seed_text[] =
    ".version 8.5\n.target sm_90a, debug\n.address_size 64\n"
    ".file 1 \"a.cu\"\n.extern .shared .align 16 .b8 dyn[];\n"
    ".global .u32 g = 7;\n.visible .global .align 8 .u64 t[2] = {g, generic(g)+4};\n"
    ".const .align 4 .f32 c[2][2] = {{1.5, 0f3F800000}, {-2.0}};\n"
    ".func (.param .b32 r) twice(.param .b32 x) { .reg .b32 %a; ld.param.b32 %a, [x];\n"
    " .reg .b64 %b; mov.b64 %b, x; ld.param.b32 %a, [%b];"
    " shl.b32 %a, %a, 1; st.param.b32 [r], %a; ret; }\n"
    ".extern .func (.param .b32 r) vprintf(.param .b64 a, .param .b64 b);\n"
    "/* a comment */ .visible .entry k(.param .u64 .ptr .global .align 8 p, .param .align 8 .b8 "
    "s[24])\n.maxntid 32, 2, 1 .minnctapersm 2\n{\n"
    " .reg .pred %q<4>; .reg .b16 %h<4>; .reg .b32 %r<20>; .reg .f32 %f<8>; .reg .b64 %d<8>;\n"
    " .local .align 8 .b8 depot[16]; .shared .align 4 .b8 box[64];\n"
    " ld.param.u64 %d1, [p]; cvta.to.global.u64 %d1, %d1; mov.u32 %r1, %tid.x;\n"
    " mad.lo.s32 %r2, %r1, -4, 0x10; mov.b64 %d2, {%r1, %r2}; mov.u64 %d3, t;\n"
    "LOOP: ld.volatile.global.v2.f32 {%f1, %f2}, [%d1+8]; fma.rz.ftz.f32 %f3, %f1, %f2, "
    "0f3F000000;\n"
    " setp.lt.and.f32 %q1|%q2, %f3, 1.0, !%q3; @%q1 bra LOOP; cvt.rn.f16.f32 %h1, %f3;\n"
    " { .reg .b32 %r1; .param .b32 i; .param .b32 o; st.param.b32 [i+0], 5;\n"
    "   call.uni (o), twice, (i); ld.param.b32 %r1, [o]; }\n"
    "T: .branchtargets A, B; brx.idx %r1, T;\n"
    "A: shfl.sync.down.b32 %r3|%q1, %r2, 1, 31, -1; bar.sync 0; atom.shared.add.u32 %r4, [box], "
    "1;\n"
    "B: @!%q2 st.local.b32 [depot+4], %r3; lop3.b32 %r5, %r1, %r2, %r3, 0x96; bfe.u32 %r6, %r5, 1, "
    "2;\n"
    " P: .callprototype (.param .b32 _) _ (.param .b32 _);\n"
    " { .param .b32 i; .param .b32 o; mov.u64 %d4, twice; call (o), %d4, (i), P; }\n"
    " .loc 1 2 3\n .pragma \"nounroll\"; mov.u32 %r7, (1 << 4) | ~3 % 5;\n"
    " .shared .align 8 .b64 m; mbarrier.init.shared.b64 [m], 32; mbarrier.arrive.shared.b64 %d5, "
    "[m];\n"
    "W: mbarrier.try_wait.shared.b64 %q1, [m], %d5; @!%q1 bra W; barrier.cluster.arrive;\n"
    " barrier.cluster.wait; stacksave.u64 %d6; alloca.u64 %d7, %d6, 16; mapa.u64 %d2, %d3, 0;\n"
    " cvt.rn.satfinite.e4m3x2.f32 %h1, %f1, %f2; isspacep.const %q2, %d3;\n"
    " st.global.v4.b32 [%d1], {%r1, %r2, %r3, 7}; ret;\n}\n";

static const char *const words[] = {
    ";",          "{",         "}",          "(",    ")",       "[",
    "]",          ",",         "<",          ">",    "@",       "!",
    "|",          "-",         "%r1",        "%d1",  "%f1",     "%q1",
    "_",          "0",         "4294967296", "-1",   "0f3F80",  "0d00",
    "1e999",      ".b32",      ".v4",        ".reg", ".param",  ".shared",
    ".align",     ".entry k2", "ret",        "call", "bra",     "99999999999999999999",
    "\"",         "/*",        "//",         "\0x",  ".global", ".f16x2",
    "bar.sync 0", "k",         "twice",      "t",    "box",
};

static uint64_t state;

static uint32_t draw(uint32_t below)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % below;
}

static size_t damage(char *text, size_t bytes, size_t room)
{
    size_t at = draw((uint32_t)bytes), n = 1 + draw(12), other = draw((uint32_t)bytes);
    switch (draw(7)) {
    case 0: /* a byte */
        text[at] = (char)draw(256);
        return bytes;
    case 1: /* cut out */
        n = n > bytes - at ? bytes - at : n;
        memmove(text + at, text + at + n, bytes - at - n);
        return bytes - n ? bytes - n : 1;
    case 2: /* the end is missing */
        return draw(20) ? bytes : at + 1;
    case 3: /* a piece twice */
    case 4: {
        n = 1 + draw(60);
        n = n > bytes - other ? bytes - other : n;
        if (bytes + n > room)
            return bytes;
        char piece[64];
        memcpy(piece, text + other, n);
        memmove(text + at + n, text + at, bytes - at);
        memcpy(text + at, piece, n);
        return bytes + n;
    }
    default: { /* a word */
        const char *word = words[draw(sizeof(words) / sizeof(words[0]))];
        n = strlen(word) ? strlen(word) : 1;
        if (bytes + n > room)
            return bytes;
        memmove(text + at + n, text + at, bytes - at);
        memcpy(text + at, word, n);
        return bytes + n;
    }
    }
}

static int tried, indexed, translated;
static char last[400]; /* reason */

static void translate(const char *text, size_t bytes, const char *kernel)
{
    static struct job job;
    memset(&job, 0, sizeof(job));
    if (setjmp(job.out) == 0) {
        struct emitter *e = job_new(&job, 1, sizeof(*e));
        e->job = &job;
        e->module = module_read(&job, text, bytes);
        emit_kernel(e, kernel);
        translated++;
    } else if (!job.why[0] || strchr(job.why, '\n') || job.code == PTXC_INTERNAL) {
        printf("reason `%s`, code %d\n%.*s\n", job.why, job.code, (int)bytes, text);
        exit(1);
    }
    snprintf(last, sizeof(last), "%s", job.why);
    job_free(job.chunks);
}

static void try_text(const char *text, size_t bytes)
{
    struct ptx_index index;
    char why[200];
    /* Exactly as many bytes as there are, so that one too far is seen. */
    char *copy = malloc(bytes ? bytes : 1);
    if (!copy)
        exit(77);
    memcpy(copy, text, bytes);
    tried++;
    int r = ptx_index_read(copy, bytes, &index, why, sizeof(why));
    if (r == 0) {
        indexed++;
        for (uint32_t i = 0; i < index.entry_count; i++)
            translate(copy, bytes, index.entries[i].name);
    } else if (r == -EINVAL && why[0]) {
        snprintf(last, sizeof(last), "%s", why);
    } else {
        printf("index says %d `%s`\n%.*s\n", r, why, (int)bytes, text);
        exit(1);
    }
    translate(copy, bytes, "k");
    ptx_index_free(&index);
    /* What is a module is an object, too. */
    if (ptx_index_object(copy, bytes, &index, why, sizeof(why)) != 0 && r == 0) {
        printf("as an object: `%s`\n%.*s\n", why, (int)bytes, text);
        exit(1);
    }
    ptx_index_free(&index);
    free(copy);
}

int main(int argc, char **argv)
{
    const char *seed = getenv("HARP_TEST_SEED"), *seconds = getenv("HARP_FUZZ_S");
    time_t until = time(NULL) + (seconds ? atoi(seconds) : 8);
    static char text[8192];
    state = seed ? strtoull(seed, NULL, 10) : 20261122;
    printf("HARP_TEST_SEED=%" PRIu64 "\n", state);
    if (argc > 1) {
        FILE *f = fopen(argv[1], "rb");
        size_t n = f ? fread(text, 1, sizeof(text), f) : 0;
        if (f)
            fclose(f);
        try_text(text, n);
        return 0;
    }
    try_text(seed_text, sizeof(seed_text) - 1);
    if (translated != 2) {
        printf("the undamaged text was not translated: %s\n", last);
        return 1;
    }
    for (size_t n = 0; n < sizeof(seed_text); n += 7)
        try_text(seed_text, n);
    while (time(NULL) < until) {
        size_t bytes = sizeof(seed_text) - 1;
        memcpy(text, seed_text, bytes);
        for (uint32_t i = 1 + draw(6); i; i--)
            bytes = damage(text, bytes, sizeof(text));
        try_text(text, bytes);
    }
    printf("%d texts, %d indexed, %d translated\n", tried, indexed, translated);
    return indexed && translated ? 0 : 1;
}

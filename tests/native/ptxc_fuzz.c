/* SPDX-License-Identifier: Apache-2.0
 *
 * Damaged PTX through the index and the translator, under the sanitizers: every text ends soon in
 * an answer or in one line of explanation, what goes to the C compiler is what the translator
 * wrote, and nothing leaks. HARP_TEST_SEED, HARP_FUZZ_N set the seed and how many texts; a file as
 * argument is tried as it is. HARP_FUZZ_KEEP is a folder for texts that are translated though
 * damaged.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "ptxc_fuzz_text.h"
#include "soft/ptxc/emit.h"
#include "soft/ptxc/prelude.h"
#include "soft/ptxc/ptx_index.h"

enum { TEXT_S = 20 }; /* of the processor, for one text */

static int tried, indexed, translated;
static char last[400]; /* reason */

/* Nothing of the text reaches the compiler but names and numbers: a string ends where it began. */
static bool is_plain(const char *c, size_t bytes)
{
    static size_t before, behind; /* the run time's own text, the same each time */
    bool quoted = false;
    if (!before) {
        before = strlen(prelude_abi) + strlen(prelude_switch) + strlen(prelude_core) +
                 strlen(prelude_arith) + strlen(prelude_float) + strlen(prelude_pack) +
                 strlen(prelude_atomic);
        behind = strlen(prelude_tail);
    }
    c += before;
    bytes -= before + behind;
    for (size_t i = 0; i < bytes; i++) {
        if (c[i] == '\n' && quoted)
            return false;
        if ((unsigned char)c[i] > 0x7e || ((unsigned char)c[i] < 0x20 && c[i] != '\n'))
            return false;
        if (quoted && c[i] == '\\')
            i++;
        else if (c[i] == '"')
            quoted = !quoted;
    }
    return !quoted;
}

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
        if (!is_plain(e->out.at, e->out.bytes)) {
            printf("the text reached the C\n%.*s\n", (int)bytes, text);
            exit(1);
        }
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
    if (r != 0)
        translate(copy, bytes, "k");
    ptx_index_free(&index);
    /* What is a module is an object, too. */
    if (r == 0 || tried % 8 == 0) {
        if (ptx_index_object(copy, bytes, &index, why, sizeof(why)) != 0 && r == 0) {
            printf("as an object: `%s`\n%.*s\n", why, (int)bytes, text);
            exit(1);
        }
        ptx_index_free(&index);
    }
    free(copy);
}

static void keep(const struct fuzz_text *text)
{
    const char *folder = getenv("HARP_FUZZ_KEEP");
    char path[512];
    snprintf(path, sizeof(path), "%s/%d.ptx", folder ? folder : "", tried);
    FILE *f = folder ? fopen(path, "wb") : NULL;
    if (f) {
        fwrite(text->at, 1, text->bytes, f);
        fclose(f);
    }
}

/* A loop without end is ended by SIGPROF, and that fails the test. */
static void set_clock(int seconds)
{
    struct itimerval limit = {.it_value.tv_sec = seconds};
    setitimer(ITIMER_PROF, &limit, NULL);
}

/* Does an instruction of the row's name stand in it? */
static bool has_op(const struct fuzz_text *text, const char *op)
{
    char word[32];
    int bytes = snprintf(word, sizeof(word), " %s", op);
    for (const char *at = text->at;
         (at = memmem(at, text->bytes - (size_t)(at - text->at), word, (size_t)bytes)); at++)
        if (at[bytes] == '.' || at[bytes] == ' ')
            return true;
    return false;
}

/* How many rows of the table were translated in a text that nothing was done to. Those whose
 * operands only a function knows (*) count once an instruction of their name was, in any form. */
static int whole_rows(struct fuzz_text *text)
{
    static unsigned char seen[1024];
    int rows = 0, tries = 0, named = 0;
    while (tries++ < 2000) {
        int before = translated;
        text_make(text);
        translate(text->at, text->bytes, "k");
        for (int i = 0; translated > before && i < text->row_count; i++)
            seen[text->rows[i]] = 1;
        for (size_t i = 0; translated > before && tries % 8 == 0 && i < ptx_row_count; i++)
            if (!seen[i] && has_op(text, ptx_rows[i].op))
                seen[i] = 2;
    }
    for (size_t i = 0; i < ptx_row_count; i++) {
        rows += seen[i] == 1;
        named += seen[i] == 2;
        if (!seen[i] && getenv("HARP_FUZZ_VERBOSE"))
            printf("row %zu: %s.%s %s\n", i, ptx_rows[i].op, ptx_rows[i].types, ptx_rows[i].mods);
    }
    printf("whole texts: %d of %d translated; of %zu rows of the table %d in their own form, %d by "
           "name, %zu not\n",
           translated, tries - 1, ptx_row_count, rows, named,
           ptx_row_count - (size_t)(rows + named));
    return rows + named;
}

int main(int argc, char **argv)
{
    const char *seed = getenv("HARP_TEST_SEED"), *count = getenv("HARP_FUZZ_N");
    static struct fuzz_text text;
    int want = count ? atoi(count) : 50000, kinds[KINDS][2] = {0};
    fuzz_state = seed ? strtoull(seed, NULL, 10) : 20261122;
    printf("HARP_TEST_SEED=%" PRIu64 "\n", fuzz_state);
    if (argc > 1) {
        FILE *f = fopen(argv[1], "rb");
        text.bytes = f ? fread(text.at, 1, sizeof(text.at), f) : 0;
        if (f)
            fclose(f);
        try_text(text.at, text.bytes);
        printf("%d indexed, %d translated; %s\n", indexed, translated, last);
        return 0;
    }
    if (whole_rows(&text) < (int)ptx_row_count * 9 / 10)
        return 1; /* a new row is to be reached: a sample for it in ptxc_fuzz_text.c */
    tried = indexed = translated = 0;
    text_make(&text);
    for (size_t n = 0; n < text.bytes; n += 7)
        try_text(text.at, n);
    while (tried < want) {
        text_make(&text);
        int before = translated, kind = 0;
        for (uint32_t i = draw(3) ? 1 : 1 + draw(6); i; i--)
            kind = text_damage(&text);
        set_clock(TEXT_S);
        try_text(text.at, text.bytes);
        set_clock(0);
        kinds[kind][0]++;
        kinds[kind][1] += translated > before;
        if (translated > before)
            keep(&text);
    }
    printf("%d damaged texts, %d indexed, %d translations; texts by their last damage:", tried,
           indexed, translated);
    for (int i = 0; i < KINDS; i++)
        printf(" %d:%d/%d", i, kinds[i][1], kinds[i][0]);
    printf("\n");
    return indexed && translated ? 0 : 1;
}

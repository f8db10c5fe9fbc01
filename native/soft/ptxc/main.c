/* SPDX-License-Identifier: Apache-2.0
 *
 * harp-ptxc: PTX -> C -> the machine's compiler -> a shared object of one kernel, cached.
 *
 *   harp-ptxc compile --kernel NAME [--sm 90] [--quick] [--cache DIR] [FILE|-]   prints a path
 *   harp-ptxc emit --kernel NAME [--sm 90] [--quick] [FILE|-]          prints the C
 *   harp-ptxc index [FILE|-]                                           prints JSON
 *   harp-ptxc serve --socket PATH --cache DIR [...]                    for programs elsewhere
 *
 * Exit: 0 done, 2 usage, 3 unsupported, 4 invalid PTX, 5 no compiler, 6 internal; one line on
 * stderr.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "soft/ptxc/compile.h"
#include "soft/ptxc/ptx_index.h"
#include "soft/ptxc/serve.h"

struct options {
    const char *command, *file;
    struct compile_wish wish;
};

static const char usage_text[] =
    "usage: harp-ptxc compile --kernel NAME [--sm 90] [--quick] [--cache DIR] [FILE|-]\n"
    "       harp-ptxc emit --kernel NAME [--sm 90] [--quick] [FILE|-]\n"
    "       harp-ptxc index [FILE|-]\n"
    "       harp-ptxc serve --socket PATH --cache DIR [--jobs N] [--timeout-s 240]\n"
    "                       [--cache-mib 1024] [--memory-mib 4096]\n";

static bool read_options(struct options *o, int argc, char **argv)
{
    *o = (struct options){.file = "-", .wish.sm = 90};
    bool named = false;
    if (argc < 2)
        return false;
    bool bare = argv[1][0] == '-' && argv[1][1]; /* no command: compile */
    o->command = bare ? "compile" : argv[1];
    for (int i = bare ? 1 : 2; i < argc; i++) {
        const char **value = strcmp(argv[i], "--kernel") == 0  ? &o->wish.kernel
                             : strcmp(argv[i], "--cache") == 0 ? &o->wish.cache
                                                               : NULL;
        if (strcmp(argv[i], "--quick") == 0) {
            o->wish.quick = true;
        } else if (value || strcmp(argv[i], "--sm") == 0) {
            if (i + 1 == argc)
                return false;
            i++;
            char *end = NULL;
            if (value)
                *value = argv[i];
            else if (!(o->wish.sm = (uint32_t)strtoul(argv[i], &end, 10)) || *end)
                return false;
        } else if (argv[i][0] == '-' && argv[i][1]) {
            return false;
        } else {
            if (named)
                return false;
            o->file = argv[i];
            named = true;
        }
    }
    bool index = strcmp(o->command, "index") == 0;
    if (!index && strcmp(o->command, "compile") != 0 && strcmp(o->command, "emit") != 0)
        return false;
    return index || o->wish.kernel;
}

/* ------------------------------------------------------------------------------- index -------- */

static void put_json(const char *text)
{
    putchar('"');
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            putchar('\\');
        putchar(*text);
    }
    putchar('"');
}

static void run_index(struct job *job, const char *text, size_t bytes)
{
    struct ptx_index index;
    char why[400];
    int r = ptx_index_read(text, bytes, &index, why, sizeof(why));
    if (r)
        job_fail(job, r == -ENOMEM ? PTXC_NO_MEMORY : PTXC_INVALID, "%s", why);
    printf("{\"version\": [%u, %u], \"target_sm\": %u, \"address_size\": %u, \"entries\": [",
           index.ptx_major, index.ptx_minor, index.target_sm, index.address_size);
    for (uint32_t i = 0; i < index.entry_count; i++) {
        const struct ptx_entry *e = &index.entries[i];
        printf("%s{\"name\": ", i ? ", " : "");
        put_json(e->name);
        printf(", \"params\": [");
        for (uint32_t k = 0; k < e->param_count; k++)
            printf("%s{\"offset\": %u, \"bytes\": %u, \"align\": %u}", k ? ", " : "",
                   e->params[k].offset, e->params[k].bytes, e->params[k].align);
        printf("], \"params_bytes\": %u, \"reqntid\": [%u, %u, %u], \"maxntid\": [%u, %u, %u], "
               "\"minnctapersm\": %u, \"static_shared_bytes\": %u, \"local_bytes\": %u, "
               "\"registers\": %u}",
               e->params_bytes, e->reqntid[0], e->reqntid[1], e->reqntid[2], e->maxntid[0],
               e->maxntid[1], e->maxntid[2], e->minnctapersm, e->static_shared_bytes,
               e->local_bytes, e->registers);
    }
    printf("], \"variables\": [");
    for (uint32_t i = 0; i < index.variable_count; i++) {
        const struct ptx_variable *v = &index.variables[i];
        printf("%s{\"name\": ", i ? ", " : "");
        put_json(v->name);
        printf(", \"space\": \"%s\", \"bytes\": %" PRIu64 ", \"align\": %u, \"visible\": %s, "
               "\"init\": \"",
               v->space == PTX_CONST ? "const" : "global", v->bytes, v->align,
               v->visible ? "true" : "false");
        for (uint64_t k = 0; k < v->init_bytes; k++)
            printf("%02x", v->init[k]);
        printf("\", \"relocs\": [");
        for (uint32_t k = 0; k < v->reloc_count; k++)
            printf("%s{\"offset\": %" PRIu64 ", \"variable\": %u, \"addend\": %" PRIu64 "}",
                   k ? ", " : "", v->relocs[k].offset, v->relocs[k].variable, v->relocs[k].addend);
        printf("]}");
    }
    printf("]}\n");
    ptx_index_free(&index);
}

int main(int argc, char **argv)
{
    static struct job job;
    static struct cache_work work = {.lock = -1};
    static struct options options;
    static char *text;
    size_t bytes = 0;
    if (argc > 1 && strcmp(argv[1], "serve") == 0) {
        struct serve_settings settings;
        if (serve_read_settings(&settings, argc - 2, argv + 2))
            return serve(&settings);
        fputs(usage_text, stderr);
        return PTXC_USAGE;
    }
    if (!read_options(&options, argc, argv)) {
        fputs(usage_text, stderr);
        return PTXC_USAGE;
    }
    if (setjmp(job.out) == 0) {
        text = compile_read(&job, options.file, &bytes);
        if (strcmp(options.command, "index") == 0) {
            run_index(&job, text, bytes);
        } else if (strcmp(options.command, "emit") == 0) {
            struct text c;
            compile_emit(&job, &options.wish, text, bytes, &c);
            fwrite(c.at, 1, c.bytes, stdout);
        } else {
            printf("%s\n", compile_kernel(&job, &options.wish, text, bytes, &work));
        }
        if (fflush(stdout) != 0)
            job.code = PTXC_INTERNAL;
    } else {
        char why[sizeof(job.why) + 4096];
        compile_reason(&job, &options.wish, why, sizeof(why));
        fprintf(stderr, "%s\n", why);
    }
    cache_end(&work);
    free(text);
    job_free(job.chunks);
    return compile_exit(&job);
}

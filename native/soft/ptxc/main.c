/* SPDX-License-Identifier: Apache-2.0
 *
 * harp-ptxc: PTX -> C -> the machine's compiler -> a shared object of one kernel, cached.
 *
 *   harp-ptxc compile --kernel NAME [--sm 90] [--cache DIR] [FILE|-]   prints the file's path
 *   harp-ptxc emit --kernel NAME [--sm 90] [FILE|-]                    prints the C
 *   harp-ptxc index [FILE|-]                                           prints JSON
 *
 * Exit: 0 done, 2 usage, 3 unsupported, 4 invalid PTX, 5 no compiler, 6 internal; one line on
 * stderr.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "soft/ptxc/cache.h"
#include "soft/ptxc/compiler.h"
#include "soft/ptxc/emit.h"
#include "soft/ptxc/prelude.h"
#include "soft/ptxc/ptx_index.h"
#include "soft/ptxc/ptx_rt.h"

struct options {
    const char *command, *kernel, *cache, *file;
    uint32_t sm;
};

static const char usage_text[] =
    "usage: harp-ptxc compile --kernel NAME [--sm 90] [--cache DIR] [FILE|-]\n"
    "       harp-ptxc emit --kernel NAME [--sm 90] [FILE|-]\n"
    "       harp-ptxc index [FILE|-]\n";

static bool read_options(struct options *o, int argc, char **argv)
{
    *o = (struct options){.sm = 90, .file = "-"};
    bool named = false;
    if (argc < 2)
        return false;
    bool bare = argv[1][0] == '-' && argv[1][1]; /* no command: compile */
    o->command = bare ? "compile" : argv[1];
    for (int i = bare ? 1 : 2; i < argc; i++) {
        const char **value = strcmp(argv[i], "--kernel") == 0  ? &o->kernel
                             : strcmp(argv[i], "--cache") == 0 ? &o->cache
                                                               : NULL;
        if (value || strcmp(argv[i], "--sm") == 0) {
            if (i + 1 == argc)
                return false;
            i++;
            char *end = NULL;
            if (value)
                *value = argv[i];
            else if (!(o->sm = (uint32_t)strtoul(argv[i], &end, 10)) || *end)
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
    return index || o->kernel;
}

static char *read_all(struct job *job, const char *file, size_t *bytes)
{
    int fd = strcmp(file, "-") == 0 ? 0 : open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        job_fail(job, PTXC_USAGE, "%s: %s", file, strerror(errno));
    size_t room = 1 << 16, used = 0;
    char *text = malloc(room);
    while (text) {
        ssize_t n = read(fd, text + used, room - used);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            job_fail(job, PTXC_USAGE, "%s: %s", file, strerror(errno));
        if (!n)
            break;
        used += (size_t)n;
        if (used == room) {
            char *more = room < (size_t)1 << 31 ? realloc(text, room * 2) : NULL;
            if (!more)
                free(text);
            text = more;
            room *= 2;
        }
    }
    if (fd)
        close(fd);
    if (!text)
        job_fail(job, PTXC_NO_MEMORY, "out of memory");
    *bytes = used;
    return text;
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

/* ----------------------------------------------------------------------------- compile -------- */

static void emit_text(struct job *job, const struct options *o, const char *text, size_t bytes,
                      struct text *out)
{
    struct emitter e = {.job = job};
    e.module = module_read(job, text, bytes);
    /* A device runs PTX made for it or for an older one. */
    if (e.module->target > o->sm)
        job_fail(job, PTXC_INVALID, "kernel %s: .target sm_%u; this device is sm_%u", o->kernel,
                 e.module->target, o->sm);
    emit_kernel(&e, o->kernel);
    *out = e.out;
}

static void add_self(struct sha256 *sha)
{
    static char buffer[1 << 16];
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    for (ssize_t n; fd >= 0 && (n = read(fd, buffer, sizeof(buffer))) > 0;)
        sha256_add(sha, buffer, (size_t)n);
    if (fd >= 0)
        close(fd);
}

static void key_of(struct job *job, const struct options *o, const struct compiler *compiler,
                   const char *text, size_t bytes, char key[65])
{
    struct sha256 sha;
    uint32_t numbers[2] = {PTX_RT_ABI, o->sm};
    uint64_t length = bytes;
    sha256_init(&sha);
    sha256_add(&sha, &length, sizeof(length));
    sha256_add(&sha, text, bytes);
    sha256_add(&sha, o->kernel, strlen(o->kernel) + 1);
    sha256_add(&sha, numbers, sizeof(numbers));
    compiler_identity(job, compiler, &sha);
    add_self(&sha);
    sha256_hex(&sha, key);
}

static void write_file(struct job *job, const char *name, const void *data, size_t bytes)
{
    FILE *f = fopen(name, "we");
    if (!f || fwrite(data, 1, bytes, f) != bytes || fclose(f) != 0)
        job_fail(job, PTXC_INTERNAL, "writing %s: %s", name, strerror(errno));
}

static bool patch(char *file, size_t bytes, uint64_t mark, uint64_t **at)
{
    char *found = memmem(file, bytes, &mark, sizeof(mark));
    *at = (uint64_t *)(void *)found;
    return found && !memmem(found + 8, bytes - (size_t)(found - file) - 8, &mark, sizeof(mark));
}

/* Fills in how much stack a thread takes, now that the compiler has said. */
static void set_stack(struct job *job, bool fibers)
{
    size_t bytes;
    if (!fibers)
        return;
    uint64_t frames = compiler_stack(job), *stack, *thread, value[4];
    char *file = read_all(job, "kernel.so", &bytes);
    if (!frames)
        frames = 256 << 10;
    if (!patch(file, bytes, PTXC_STACK_MARK, &stack) ||
        !patch(file, bytes, PTXC_THREAD_MARK, &thread) || (char *)(stack + 4) > file + bytes) {
        free(file);
        job_fail(job, PTXC_INTERNAL, "the compiled kernel lacks its stack marks");
    }
    memcpy(value, stack, sizeof(value));
    value[3] = frames + 2048;
    value[0] = (value[1] + frames + 63) & ~63ull;
    memcpy(stack, value, sizeof(value));
    value[2] += value[0];
    memcpy(thread, &value[2], 8);
    write_file(job, "kernel.so", file, bytes);
    free(file);
}

static void run_compile(struct job *job, const struct options *o, const char *text, size_t bytes,
                        struct cache_work *work)
{
    struct compiler compiler;
    struct text c;
    char key[65], name[80];
    compiler_find(job, &compiler);
    const char *folder = cache_folder(job, o->cache);
    key_of(job, o, &compiler, text, bytes, key);
    snprintf(name, sizeof(name), "/%s.so", key);
    char *path = job_new(job, strlen(folder) + sizeof(name), 1);
    strcat(strcpy(path, folder), name);
    if (!cache_trusts(job, path)) {
        emit_text(job, o, text, bytes, &c); /* refusals come before the lock */
        if (!cache_begin(job, work, folder, key)) {
            write_file(job, "kernel.c", c.at, c.bytes);
            compiler_run(job, &compiler,
                         strstr(c.at, "#define RT_BIG 0\n")   ? "-O2"
                         : strstr(c.at, "#define RT_BIG 1\n") ? "-O1"
                                                              : "-O0");
            set_stack(job, strstr(c.at, "#define RT_FIBERS 1\n") != NULL);
            cache_publish(job, work);
        }
    }
    printf("%s\n", path);
}

int main(int argc, char **argv)
{
    static struct job job;
    static struct cache_work work = {.lock = -1};
    static struct options options;
    static char *text;
    size_t bytes = 0;
    if (!read_options(&options, argc, argv)) {
        fputs(usage_text, stderr);
        return PTXC_USAGE;
    }
    if (setjmp(job.out) == 0) {
        text = read_all(&job, options.file, &bytes);
        if (strcmp(options.command, "index") == 0) {
            run_index(&job, text, bytes);
        } else if (strcmp(options.command, "emit") == 0) {
            struct text c;
            emit_text(&job, &options, text, bytes, &c);
            fwrite(c.at, 1, c.bytes, stdout);
        } else {
            run_compile(&job, &options, text, bytes, &work);
        }
        if (fflush(stdout) != 0)
            job.code = PTXC_INTERNAL;
    } else {
        if (options.kernel && job.code <= PTXC_INVALID && strncmp(job.why, "kernel ", 7) != 0)
            fprintf(stderr, "kernel %s: %s\n", options.kernel, job.why);
        else
            fprintf(stderr, "%s\n", job.why);
    }
    cache_end(&work);
    free(text);
    job_free(job.chunks);
    return job.code == PTXC_NO_MEMORY ? PTXC_INTERNAL : job.code;
}

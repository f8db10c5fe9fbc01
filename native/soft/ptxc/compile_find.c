/* SPDX-License-Identifier: Apache-2.0 */
#include "soft/ptxc/compile_find.h"

#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "soft/ptxc/ptx_rt.h"

/* The note in which a linker leaves a sum over all that it wrote, if it lies near the beginning. */
static bool add_build_id(int fd, struct sha256 *sha)
{
    _Alignas(8) unsigned char head[4096];
    ssize_t got = pread(fd, head, sizeof(head), 0);
    Elf64_Ehdr elf;
    if (got < (ssize_t)sizeof(elf))
        return false;
    size_t bytes = (size_t)got;
    memcpy(&elf, head, sizeof(elf));
    if (memcmp(elf.e_ident, ELFMAG, SELFMAG) != 0 || elf.e_ident[EI_CLASS] != ELFCLASS64)
        return false;
    for (size_t i = 0; i < elf.e_phnum; i++) {
        Elf64_Phdr part;
        if (elf.e_phoff > bytes || (i + 1) * sizeof(part) > bytes - elf.e_phoff)
            return false;
        memcpy(&part, head + elf.e_phoff + i * sizeof(part), sizeof(part));
        if (part.p_type != PT_NOTE || part.p_offset > bytes ||
            part.p_filesz > bytes - part.p_offset)
            continue;
        size_t at = (size_t)part.p_offset, end = at + (size_t)part.p_filesz;
        for (Elf64_Nhdr note; end - at >= sizeof(note);) {
            memcpy(&note, head + at, sizeof(note));
            at += sizeof(note);
            size_t name = (note.n_namesz + 3ull) & ~3ull, sum = (note.n_descsz + 3ull) & ~3ull;
            if (name > end - at || sum > end - at - name)
                break;
            if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == sizeof(ELF_NOTE_GNU) &&
                memcmp(head + at, ELF_NOTE_GNU, sizeof(ELF_NOTE_GNU)) == 0 && note.n_descsz >= 16) {
                sha256_add(sha, head + at + name, note.n_descsz);
                return true;
            }
            at += name + sum;
        }
    }
    return false;
}

/* harp-ptxc tells apart its own versions, which nobody chooses to be alike: SHA-256 would take
 * longer over it than all else that a kernel needs which the cache has. */
static void add_program(const char *program, struct sha256 *sha)
{
    uint64_t words[512];
    uint64_t sum[2] = {0x9e3779b97f4a7c15ull, 0xc2b2ae3d27d4eb4full}, length = 0;
    int fd = open(program, O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && add_build_id(fd, sha)) {
        close(fd);
        return;
    }
    for (ssize_t n; fd >= 0 && (n = read(fd, words, sizeof(words))) > 0; length += (uint64_t)n) {
        memset((char *)words + n, 0, sizeof(words) - (size_t)n);
        for (size_t i = 0; i * sizeof(words[0]) < (size_t)n; i++) {
            sum[0] = (sum[0] ^ words[i]) * 0xff51afd7ed558ccdull;
            sum[0] ^= sum[0] >> 32;
            sum[1] = (sum[1] + words[i]) * 0xc4ceb9fe1a85ec53ull;
            sum[1] ^= sum[1] >> 29;
        }
    }
    if (fd >= 0)
        close(fd);
    sha256_add(sha, &length, sizeof(length));
    sha256_add(sha, sum, sizeof(sum));
}

/* Of everything that decides what comes out. */
void compile_keys(struct job *job, const struct compile_wish *wish, const struct compiler *compiler,
                  const char *program, const char *text, size_t bytes, char keys[2][65])
{
    struct sha256 all;
    uint32_t numbers[2] = {PTX_RT_ABI, wish->sm};
    uint64_t length = bytes;
    sha256_init(&all);
    sha256_add(&all, &length, sizeof(length));
    sha256_add(&all, text, bytes);
    sha256_add(&all, wish->kernel, strlen(wish->kernel) + 1);
    sha256_add(&all, numbers, sizeof(numbers));
    compiler_identity(job, compiler, &all);
    add_program(program, &all);
    for (uint8_t quick = 0; quick < 2; quick++) {
        struct sha256 sha = all;
        sha256_add(&sha, &quick, 1);
        sha256_hex(&sha, keys[quick]);
    }
}

const char *compile_cached(struct job *job, const struct compile_wish *wish, const char *folder,
                           char keys[2][65], int *object)
{
    for (int quick = 0; quick <= (int)wish->quick; quick++) {
        char name[80];
        snprintf(name, sizeof(name), "%s.so", keys[quick]);
        const char *path = cache_join(job, folder, name);
        int fd = cache_open(job, path);
        if (fd < 0)
            continue;
        if (object)
            *object = fd;
        else
            close(fd);
        return path;
    }
    return NULL;
}

int compile_find(const struct compile_wish *wish, const char *program, char *const *env,
                 const char *text, size_t bytes, char *path, size_t path_bytes)
{
    struct job job = {.env = env};
    volatile int found = -1;
    if (setjmp(job.out) == 0) {
        struct compiler compiler;
        const char *places[CACHE_PLACES], *at = NULL;
        char keys[2][65];
        int object = -1;
        compiler_find(&job, &compiler);
        compile_keys(&job, wish, &compiler, program, text, bytes, keys);
        cache_places(&job, places);
        for (int i = 0; i < CACHE_PLACES && !at; i++)
            if (places[i] && !cache_distrusts(places[i]))
                at = compile_cached(&job, wish, places[i], keys, &object);
        found = object;
        snprintf(path, path_bytes, "%s", at ? at : "");
    }
    job_free(job.chunks);
    return found;
}

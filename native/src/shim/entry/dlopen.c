/* SPDX-License-Identifier: Apache-2.0
 *
 * dlopen and dlmopen: a program that opens the driver by another name or by path gets us.
 *
 * The entries are written in assembler because they must leave no frame: the loader looks at the
 * return address to choose the caller's RUNPATH and namespace. Only names that mean the CUDA or the
 * NVML library are rewritten, and only for callers other than the driver itself.
 */
#include "src/shim/entry/entry.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>

static void *no_dlmopen(void)
{
    return NULL;
}

/* Read by the assembler below. Written before each use with the same value. */
__attribute__((visibility("hidden"))) void *harp_next_dlopen;
__attribute__((visibility("hidden"))) void *harp_next_dlmopen = (void *)no_dlmopen;

static bool from_driver(const void *caller)
{
    Dl_info info;
    const void *base = harp_real_base();
    return base != NULL && dladdr(caller, &info) != 0 && info.dli_fbase == base;
}

static const char *rewrite(const char *file, const void *caller)
{
    int saved = errno;
    const char *to = file;
    if (file != NULL && (harp_env()->grant != NULL || harp_env()->remote != NULL) &&
        !harp_inside()) {
        int kind = harp_loader_which(file);
        if (kind != 0 && !from_driver(caller)) {
            const char *ours = kind == 1 ? harp_own_path() : harp_sibling_path();
            if (*ours != '\0')
                to = ours;
        }
    }
    errno = saved;
    return to;
}

__attribute__((visibility("hidden"))) const char *harp_dlopen_file(const char *file, int flags,
                                                                   const void *caller)
{
    (void)flags;
    harp_next_dlopen = (void *)harp_env()->dlopen;
    return rewrite(file, caller);
}

__attribute__((visibility("hidden"))) const char *harp_dlmopen_file(long space, const char *file,
                                                                    const void *caller)
{
    (void)space;
    void *volatile found = dlsym(RTLD_NEXT, "dlmopen");
    if (found != NULL) /* musl has none */
        harp_next_dlmopen = found;
    return rewrite(file, caller);
}

#if defined(__x86_64__)
__asm__(".text\n"
        ".globl dlopen\n"
        ".type dlopen, @function\n"
        "dlopen:\n"
        "    pushq %rdi\n"
        "    pushq %rsi\n"
        "    subq $8, %rsp\n"
        "    movq 24(%rsp), %rdx\n"
        "    call harp_dlopen_file\n"
        "    addq $8, %rsp\n"
        "    popq %rsi\n"
        "    popq %rdi\n"
        "    movq %rax, %rdi\n"
        "    jmp *harp_next_dlopen(%rip)\n"
        ".size dlopen, . - dlopen\n"
        ".globl dlmopen\n"
        ".type dlmopen, @function\n"
        "dlmopen:\n"
        "    pushq %rdi\n"
        "    pushq %rsi\n"
        "    pushq %rdx\n"
        "    movq 24(%rsp), %rdx\n"
        "    call harp_dlmopen_file\n"
        "    popq %rdx\n"
        "    popq %rsi\n"
        "    popq %rdi\n"
        "    movq %rax, %rsi\n"
        "    jmp *harp_next_dlmopen(%rip)\n"
        ".size dlmopen, . - dlmopen\n");
#elif defined(__aarch64__)
__asm__(".text\n"
        ".globl dlopen\n"
        ".type dlopen, %function\n"
        "dlopen:\n"
        "    stp x0, x1, [sp, #-32]!\n"
        "    str x30, [sp, #16]\n"
        "    mov x2, x30\n"
        "    bl harp_dlopen_file\n"
        "    ldr x1, [sp, #8]\n"
        "    ldr x30, [sp, #16]\n"
        "    add sp, sp, #32\n"
        "    adrp x16, harp_next_dlopen\n"
        "    ldr x16, [x16, :lo12:harp_next_dlopen]\n"
        "    br x16\n"
        ".size dlopen, . - dlopen\n"
        ".globl dlmopen\n"
        ".type dlmopen, %function\n"
        "dlmopen:\n"
        "    stp x0, x1, [sp, #-32]!\n"
        "    stp x2, x30, [sp, #16]\n"
        "    mov x2, x30\n"
        "    bl harp_dlmopen_file\n"
        "    mov x1, x0\n"
        "    ldr x0, [sp]\n"
        "    ldp x2, x30, [sp, #16]\n"
        "    add sp, sp, #32\n"
        "    adrp x16, harp_next_dlmopen\n"
        "    ldr x16, [x16, :lo12:harp_next_dlmopen]\n"
        "    br x16\n"
        ".size dlmopen, . - dlmopen\n");
#endif

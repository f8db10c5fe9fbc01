/* SPDX-License-Identifier: Apache-2.0
 *
 * Text that harp-ptxc puts before every translated kernel (after ptx_rt.h): words that the other
 * texts use, from one stack to another, and floating-point control.
 */
typedef unsigned __int128 u128;

#define INLINE      static inline __attribute__((always_inline, unused))
#define COLD        static __attribute__((noinline, cold, unused))
#define LIKELY(x)   __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

/* rt_enter(save, fn, arg): saves the callee-saved registers, stores the stack pointer in *save and
 * calls fn(arg). rt_leave(sp): returns from that rt_enter, whatever lies above it on the stack.
 * rt_switch(save, to): saves too, then goes on where rt_switch or rt_start saved `to`.
 * rt_start(save, top, fn, arg): saves, then calls fn(arg) on a new stack; fn never returns. */
void rt_enter(void **save, void (*fn)(void *), void *arg);
_Noreturn void rt_leave(void *sp);

#if defined(__x86_64__)
__asm__(".text\n"
        ".type rt_enter, @function\n.type rt_leave, @function\n"
        "rt_enter:\n"
        "  push %rbp\n  push %rbx\n  push %r12\n  push %r13\n  push %r14\n  push %r15\n"
        "  sub $8, %rsp\n  mov %rsp, (%rdi)\n  mov %rdx, %rdi\n  call *%rsi\n"
        "rt_back:\n"
        "  add $8, %rsp\n"
        "  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbx\n  pop %rbp\n  ret\n"
        "rt_leave:\n  mov %rdi, %rsp\n  jmp rt_back\n");
/* In place, and jumped to: a processor that guesses where a `ret` goes by the calls before it is
 * right, if fibers that follow each other wait at the same place. */
#if defined(__AVX512F__)
#define RT_MORE_VECTORS                                                                            \
    , "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25",    \
        "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31", "k1", "k2", "k3", "k4", "k5", "k6",  \
        "k7"
#else
#define RT_MORE_VECTORS
#endif
#if defined(__APX_F__)
#define RT_MORE_REGISTERS                                                                          \
    , "r16", "r17", "r18", "r19", "r20", "r21", "r22", "r23", "r24", "r25", "r26", "r27", "r28",   \
        "r29", "r30", "r31"
#else
#define RT_MORE_REGISTERS
#endif
/* `go` takes it from there, on the stack at `sp`. Below a stack pointer 128 bytes may be in use. */
#define RT_SWITCH(go, save, sp, fn, arg)                                                           \
    do {                                                                                           \
        void *save_ = (save), *sp_ = (sp), *arg_ = (arg), *fn_ = (void *)(fn);                     \
        __asm__ volatile("lea -128(%%rsp), %%rsp\n\tpush %%rbp\n\tpush %%rbx\n\t"                  \
                         "lea 1f(%%rip), %%rbx\n\tpush %%rbx\n\tmov %%rsp, (%0)\n\t"               \
                         "mov %1, %%rsp\n\t" go "\n1:\tpop %%rbx\n\tpop %%rbp\n\t"                 \
                         "lea 128(%%rsp), %%rsp"                                                   \
                         : "+a"(save_), "+c"(sp_), "+D"(arg_), "+S"(fn_)                           \
                         :                                                                         \
                         : "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "xmm0",    \
                           "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", \
                           "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "memory",         \
                           "cc" RT_MORE_VECTORS RT_MORE_REGISTERS);                                \
    } while (0)
INLINE void rt_switch(void **save, void *to)
{
    RT_SWITCH("pop %%rdx\n\tjmp *%%rdx", save, to, NULL, NULL);
}
INLINE void rt_start(void **save, void *top, void (*fn)(void *), void *arg)
{
    RT_SWITCH("and $-16, %%rsp\n\txor %%ebp, %%ebp\n\tcall *%%rsi\n\tud2", save, top, fn, arg);
}
INLINE uint32_t rt_fp_get(void)
{
    uint32_t csr;
    __asm__ volatile("stmxcsr %0" : "=m"(csr));
    return csr;
}
INLINE void rt_fp_set(uint32_t csr)
{
    __asm__ volatile("ldmxcsr %0" : : "m"(csr) : "memory");
}
#define RT_FP_DEFAULT 0x1f80u
#elif defined(__aarch64__)
void rt_switch(void **save, void *to);
void rt_start(void **save, void *top, void (*fn)(void *), void *arg);
#define RT_SAVE                                                                                    \
    "  sub sp, sp, #176\n  stp x19, x20, [sp]\n  stp x21, x22, [sp, #16]\n"                        \
    "  stp x23, x24, [sp, #32]\n  stp x25, x26, [sp, #48]\n  stp x27, x28, [sp, #64]\n"            \
    "  stp x29, x30, [sp, #80]\n  stp d8, d9, [sp, #96]\n  stp d10, d11, [sp, #112]\n"             \
    "  stp d12, d13, [sp, #128]\n  stp d14, d15, [sp, #144]\n  mov x9, sp\n  str x9, [x0]\n"
__asm__(".text\n"
        ".type rt_enter, %function\n.type rt_leave, %function\n"
        ".type rt_switch, %function\n.type rt_start, %function\n"
        "rt_enter:\n" RT_SAVE "  mov x0, x2\n  blr x1\n"
        "rt_back:\n"
        "  ldp x19, x20, [sp]\n  ldp x21, x22, [sp, #16]\n  ldp x23, x24, [sp, #32]\n"
        "  ldp x25, x26, [sp, #48]\n  ldp x27, x28, [sp, #64]\n  ldp x29, x30, [sp, #80]\n"
        "  ldp d8, d9, [sp, #96]\n  ldp d10, d11, [sp, #112]\n  ldp d12, d13, [sp, #128]\n"
        "  ldp d14, d15, [sp, #144]\n  add sp, sp, #176\n  ret\n"
        "rt_leave:\n  mov sp, x0\n  b rt_back\n"
        "rt_switch:\n" RT_SAVE "  mov sp, x1\n  b rt_back\n"
        "rt_start:\n" RT_SAVE
        "  and x1, x1, #-16\n  mov sp, x1\n  mov x29, xzr\n  mov x30, xzr\n  mov x0, x3\n"
        "  blr x2\n  brk #0\n");
INLINE uint32_t rt_fp_get(void)
{
    uint64_t v;
    __asm__ volatile("mrs %0, fpcr" : "=r"(v));
    return (uint32_t)v;
}
INLINE void rt_fp_set(uint32_t v)
{
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)v) : "memory");
}
#define RT_FP_DEFAULT 0u
#else
#error "harp-ptxc knows x86-64 and aarch64"
#endif

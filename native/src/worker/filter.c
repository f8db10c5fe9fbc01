/* SPDX-License-Identifier: Apache-2.0
 *
 * The seccomp filter. It is a list of what is refused: what a driver calls after its start is said
 * nowhere, and differs between versions, so a list of what is allowed would be a guess. Refused are
 * the network, other processes, name spaces, and doors into the kernel that no driver uses.
 *
 * Allowed stay unix sockets (the arbiter), files as the user may open them, signals to what the
 * user may signal, and fork and exec: the software GPU compiles PTX in a process of its own. What
 * is started has the same filter, so exec gives nobody more than running code here does.
 *
 *   EPERM   a library may try it, and can do without
 *   KILL    nobody has a reason to: the session ends with SIGSYS
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "src/worker/confine.h"

#ifndef SECCOMP_RET_KILL_PROCESS
#define SECCOMP_RET_KILL_PROCESS 0x80000000u
#endif
#ifndef SECCOMP_FILTER_FLAG_TSYNC
#define SECCOMP_FILTER_FLAG_TSYNC 1u
#endif

#if !defined(SYS_kexec_file_load) && defined(__aarch64__)
#define SYS_kexec_file_load 294 /* Linux 5.0 */
#endif

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#else
#define ARCH 0 /* no filter is known */
#endif
#define X32 0x40000000u

#define KILL        SECCOMP_RET_KILL_PROCESS
#define FAIL(error) (SECCOMP_RET_ERRNO | (error))

/* CLONE_NEW*: name spaces. CLONE_NEWTIME is clone3's alone. */
#define NEW_SPACES 0x7e020000u
#define TIOCSTI    0x5412u /* types into the terminal that the worker was started from */

/* How one argument decides; all are 32 bits wide to the kernel. */
enum when { ALWAYS, UNLESS, IF, WITH };

static const struct rule {
    uint32_t nr, action;
    enum when when;
    uint32_t arg, value;
} rules[] = {
    /* the network */
    {SYS_socket, FAIL(EPERM), UNLESS, 0, AF_UNIX},
    {SYS_socketpair, FAIL(EPERM), UNLESS, 0, AF_UNIX},
    /* other processes */
    {SYS_ptrace, KILL, ALWAYS, 0, 0},
    {SYS_process_vm_readv, KILL, ALWAYS, 0, 0},
    {SYS_process_vm_writev, KILL, ALWAYS, 0, 0},
    {438 /* pidfd_getfd */, FAIL(EPERM), ALWAYS, 0, 0},
    {440 /* process_madvise */, FAIL(EPERM), ALWAYS, 0, 0},
    {SYS_kcmp, FAIL(EPERM), ALWAYS, 0, 0},
    {SYS_ioctl, FAIL(EPERM), IF, 1, TIOCSTI},
    /* file systems and name spaces */
    {SYS_mount, KILL, ALWAYS, 0, 0},
    {SYS_umount2, KILL, ALWAYS, 0, 0},
    {SYS_pivot_root, KILL, ALWAYS, 0, 0},
    {SYS_chroot, KILL, ALWAYS, 0, 0},
    {428 /* open_tree */, KILL, ALWAYS, 0, 0},
    {429 /* move_mount */, KILL, ALWAYS, 0, 0},
    {430 /* fsopen */, KILL, ALWAYS, 0, 0},
    {431 /* fsconfig */, KILL, ALWAYS, 0, 0},
    {432 /* fsmount */, KILL, ALWAYS, 0, 0},
    {433 /* fspick */, KILL, ALWAYS, 0, 0},
    {442 /* mount_setattr */, KILL, ALWAYS, 0, 0},
    {467 /* open_tree_attr */, KILL, ALWAYS, 0, 0},
    {SYS_open_by_handle_at, KILL, ALWAYS, 0, 0},
    {SYS_fanotify_init, FAIL(EPERM), ALWAYS, 0, 0},
    {SYS_quotactl, KILL, ALWAYS, 0, 0},
    {SYS_swapon, KILL, ALWAYS, 0, 0},
    {SYS_swapoff, KILL, ALWAYS, 0, 0},
    {SYS_setns, KILL, ALWAYS, 0, 0},
    {SYS_unshare, FAIL(EPERM), ALWAYS, 0, 0},
    {SYS_clone, FAIL(EPERM), WITH, 0, NEW_SPACES},
    /* Its flags are in memory. A libc goes on with clone. */
    {435 /* clone3 */, FAIL(ENOSYS), ALWAYS, 0, 0},
    /* the kernel */
    {SYS_bpf, KILL, ALWAYS, 0, 0},
    {SYS_perf_event_open, FAIL(EPERM), ALWAYS, 0, 0},
    {SYS_userfaultfd, FAIL(EPERM), ALWAYS, 0, 0},
    {425 /* io_uring_setup */, FAIL(EPERM), ALWAYS, 0, 0},
    {426 /* io_uring_enter */, FAIL(EPERM), ALWAYS, 0, 0},
    {427 /* io_uring_register */, FAIL(EPERM), ALWAYS, 0, 0},
    {SYS_add_key, FAIL(EPERM), ALWAYS, 0, 0},
    {SYS_request_key, FAIL(EPERM), ALWAYS, 0, 0},
    {SYS_keyctl, FAIL(EPERM), ALWAYS, 0, 0},
    {SYS_syslog, FAIL(EPERM), ALWAYS, 0, 0},
    {SYS_init_module, KILL, ALWAYS, 0, 0},
    {SYS_finit_module, KILL, ALWAYS, 0, 0},
    {SYS_delete_module, KILL, ALWAYS, 0, 0},
    {SYS_kexec_load, KILL, ALWAYS, 0, 0},
    {SYS_kexec_file_load, KILL, ALWAYS, 0, 0},
    {SYS_reboot, KILL, ALWAYS, 0, 0},
    {SYS_acct, KILL, ALWAYS, 0, 0},
    {SYS_settimeofday, KILL, ALWAYS, 0, 0},
    {SYS_clock_settime, KILL, ALWAYS, 0, 0},
    {SYS_sethostname, KILL, ALWAYS, 0, 0},
    {SYS_setdomainname, KILL, ALWAYS, 0, 0},
#ifdef SYS_iopl
    {SYS_iopl, KILL, ALWAYS, 0, 0},
    {SYS_ioperm, KILL, ALWAYS, 0, 0},
    {SYS_modify_ldt, FAIL(EPERM), ALWAYS, 0, 0},
#endif
};

#define RULES      (sizeof rules / sizeof *rules)
#define RULE_STEPS 5u
#define HEAD_STEPS 6u

#define STEP(what, value) ((struct sock_filter)BPF_STMT((what), (value)))
#define TEST(what, value, t, f)                                                                    \
    ((struct sock_filter)BPF_JUMP(BPF_JMP | (what) | BPF_K, (value), (t), (f)))
#define LOAD(at)       STEP(BPF_LD | BPF_W | BPF_ABS, (uint32_t)(at))
#define RETURN(action) STEP(BPF_RET | BPF_K, (action))

/* Call number in, as long as no rule is the call's; else its answer. Little endian: the low half of
 * an argument comes first. */
static unsigned add_rule(struct sock_filter *to, const struct rule *r)
{
    if (r->when == ALWAYS) {
        to[0] = TEST(BPF_JEQ, r->nr, 0, 1);
        to[1] = RETURN(r->action);
        return 2;
    }
    to[0] = TEST(BPF_JEQ, r->nr, 0, 4);
    to[1] = LOAD(offsetof(struct seccomp_data, args) + 8 * r->arg);
    to[2] =
        TEST(r->when == WITH ? BPF_JSET : BPF_JEQ, r->value, r->when == UNLESS, r->when != UNLESS);
    to[3] = RETURN(r->action);
    to[4] = RETURN(SECCOMP_RET_ALLOW);
    return RULE_STEPS;
}

int filter_install(char *text, size_t size)
{
    static struct sock_filter steps[HEAD_STEPS + RULES * RULE_STEPS + 1];
    unsigned n = 0;
    /* Another architecture's numbers mean other calls. */
    steps[n++] = LOAD(offsetof(struct seccomp_data, arch));
    steps[n++] = TEST(BPF_JEQ, ARCH, 1, 0);
    steps[n++] = RETURN(KILL);
    steps[n++] = LOAD(offsetof(struct seccomp_data, nr));
    if (ARCH == AUDIT_ARCH_X86_64) {
        steps[n++] = TEST(BPF_JGE, X32, 0, 1);
        steps[n++] = RETURN(KILL);
    }
    for (unsigned i = 0; i < RULES; i++)
        n += add_rule(&steps[n], &rules[i]);
    steps[n++] = RETURN(SECCOMP_RET_ALLOW);
    const struct sock_fprog program = {.len = (unsigned short)n, .filter = steps};
    /* In all threads: a driver may have started some while it was loaded. */
    long err = ARCH == 0 ? -1
                         : syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC,
                                   &program);
    if (err == 0)
        return 0;
    snprintf(text, size,
             "no seccomp filter: %s; remedy: a kernel with CONFIG_SECCOMP_FILTER, or "
             "--no-seccomp if the driver may be trusted with what the session sends",
             ARCH == 0 ? "this architecture has no table"
             : err > 0 ? "a thread has another one"
                       : strerror(errno));
    return -ENOSYS;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * A driver that a break-in has made its own: the software GPU, with a cuDriverGetVersion that tries
 * system calls, each in a child, and says on stderr what came of them: "name errno N" (0: done) or
 * "name signal N"; and whether others may look into the process. Linked with the software GPU,
 * whose functions are found behind its own.
 */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct probe {
    const char *name;
    long nr, args[6];
} probes[] = {
    {"unix", SYS_socket, {AF_UNIX, SOCK_STREAM}},
    {"inet", SYS_socket, {AF_INET, SOCK_STREAM}},
    {"inet6", SYS_socket, {AF_INET6, SOCK_DGRAM}},
    {"packet", SYS_socket, {AF_PACKET, SOCK_RAW}},
    {"netlink", SYS_socket, {AF_NETLINK, SOCK_RAW}},
    {"vsock", SYS_socket, {AF_VSOCK, SOCK_STREAM}},
    {"high_bits", SYS_socket, {1l << 32 | AF_INET, SOCK_STREAM}},
    {"tipc_pair", SYS_socketpair, {AF_TIPC, SOCK_STREAM}},
    {"unshare", SYS_unshare, {0}},
    {"new_user", SYS_clone, {CLONE_NEWUSER | 17}},
    {"new_net", SYS_clone, {CLONE_NEWNET | 17}},
    {"clone3", 435, {0, 0}},
    {"sti", SYS_ioctl, {0, 0x5412, 0}},
    {"uring_setup", 425, {8, 0}},
    {"uring_enter", 426, {0}},
    {"uring_register", 427, {0}},
    {"userfaultfd", SYS_userfaultfd, {0}},
    {"perf", SYS_perf_event_open, {0}},
    {"add_key", SYS_add_key, {0}},
    {"request_key", SYS_request_key, {0}},
    {"keyctl", SYS_keyctl, {0}},
    {"ptrace", SYS_ptrace, {0}},
    {"vm_read", SYS_process_vm_readv, {0}},
    {"vm_write", SYS_process_vm_writev, {0}},
    {"pidfd_getfd", 438, {-1}},
    {"mount", SYS_mount, {0}},
    {"umount", SYS_umount2, {0}},
    {"fsopen", 430, {0}},
    {"move_mount", 429, {-1, 0, -1, 0}},
    {"open_tree", 428, {-1, 0}},
    {"pivot_root", SYS_pivot_root, {0}},
    {"chroot", SYS_chroot, {0}},
    {"setns", SYS_setns, {-1}},
    {"bpf", SYS_bpf, {-1}},
    {"kexec", SYS_kexec_load, {0, 1000, 0, 1}},
    {"init_module", SYS_init_module, {0}},
    {"finit_module", SYS_finit_module, {-1}},
    {"delete_module", SYS_delete_module, {0}},
    {"reboot", SYS_reboot, {0}},
    {"swapon", SYS_swapon, {0}},
    {"by_handle", SYS_open_by_handle_at, {-1}},
#ifdef __x86_64__
    {"x32", 0x40000000 | SYS_getppid, {0}},
#endif
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t ask = PTHREAD_COND_INITIALIZER;
static int asked, answered;

/* A thread that is there before the filter is. */
static void *early(void *arg)
{
    (void)arg;
    pthread_mutex_lock(&lock);
    while (!asked)
        pthread_cond_wait(&ask, &lock);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    fprintf(stderr, "early errno %d\n", fd < 0 ? errno : 0);
    answered = 1;
    pthread_cond_broadcast(&ask);
    pthread_mutex_unlock(&lock);
    return NULL;
}

__attribute__((constructor)) static void start(void)
{
    pthread_t thread;
    pthread_create(&thread, NULL, early, NULL);
}

static void attempt(const struct probe *p)
{
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        const long *a = p->args;
        long r = syscall(p->nr, a[0], a[1], a[2], a[3], a[4], a[5]);
        _exit(r < 0 ? errno : 0);
    }
    waitpid(pid, &status, 0);
    if (WIFSIGNALED(status))
        fprintf(stderr, "%s signal %d\n", p->name, WTERMSIG(status));
    else
        fprintf(stderr, "%s errno %d\n", p->name, WEXITSTATUS(status));
}

int cuDriverGetVersion(int *version)
{
    int (*real)(int *) = (int (*)(int *))dlsym(RTLD_NEXT, "cuDriverGetVersion");
    for (unsigned i = 0; i < sizeof probes / sizeof *probes; i++)
        attempt(&probes[i]);
    fprintf(stderr, "dumpable value %d\n", prctl(PR_GET_DUMPABLE, 0, 0, 0, 0));
    pthread_mutex_lock(&lock);
    asked = 1;
    pthread_cond_broadcast(&ask);
    while (!answered)
        pthread_cond_wait(&ask, &lock);
    pthread_mutex_unlock(&lock);
    return real(version);
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * A child made by fork has its parent's locks as they were, and some may be held by threads that do
 * not exist in it: even its cuMemFree would wait for ever. So everything starts again there before
 * the child's first own step. vfork and clone run no handlers: harp_session_check_fork at the first
 * question is for them.
 */
#include <dlfcn.h>
#include <errno.h>

#include "src/shim/gate/session_state.h"

static void in_child(void)
{
    int saved = errno;
    harp_session_check_fork();
    errno = saved;
}

/* By name: glibc of before 2.34 has pthread_atfork in a static part alone, and musl has no
 * __register_atfork. */
void harp_fork_watch(void)
{
    typedef int glibc(void (*)(void), void (*)(void), void (*)(void), void *);
    typedef int posix(void (*)(void), void (*)(void), void (*)(void));
    glibc *with_handle = (glibc *)dlsym(RTLD_DEFAULT, "__register_atfork");
    posix *plain = (posix *)dlsym(RTLD_DEFAULT, "pthread_atfork");
    if (with_handle != NULL)
        with_handle(NULL, NULL, in_child, NULL);
    else if (plain != NULL)
        plain(NULL, NULL, in_child);
}

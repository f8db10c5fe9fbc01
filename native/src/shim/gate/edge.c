/* SPDX-License-Identifier: Apache-2.0
 *
 * Two counters, each written before the other is read: of two sides one sees the other. No lock,
 * for either side calls the driver between.
 */
#include "src/shim/gate/edge.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define LOOK_NS 10000000l
#define LOOKS   10 /* a call inside may wait for what the capturing thread has yet to do */

static uint32_t inside, beginning;

bool harp_edge_enter(void)
{
    __atomic_fetch_add(&inside, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&beginning, __ATOMIC_SEQ_CST) == 0)
        return true;
    harp_edge_leave();
    return false;
}

void harp_edge_leave(void)
{
    if (__atomic_sub_fetch(&inside, 1, __ATOMIC_SEQ_CST) == 0 &&
        __atomic_load_n(&beginning, __ATOMIC_SEQ_CST) != 0)
        syscall(SYS_futex, &inside, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

void harp_edge_begin(void)
{
    static const struct timespec look = {0, LOOK_NS};
    uint32_t seen;
    int saved = errno;
    __atomic_fetch_add(&beginning, 1, __ATOMIC_SEQ_CST);
    for (int n = 0; n < LOOKS && (seen = __atomic_load_n(&inside, __ATOMIC_SEQ_CST)) != 0; n++)
        syscall(SYS_futex, &inside, FUTEX_WAIT_PRIVATE, seen, &look, NULL, 0);
    errno = saved;
}

void harp_edge_begun(void)
{
    __atomic_fetch_sub(&beginning, 1, __ATOMIC_SEQ_CST);
}

void harp_edge_forked(void)
{
    inside = beginning = 0;
}

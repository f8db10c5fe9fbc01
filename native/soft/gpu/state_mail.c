/* SPDX-License-Identifier: Apache-2.0
 *
 * Requests of one process to another. Who asks holds a record lock on a byte of the slots file that
 * belongs to the other's slot, so there is one at a time, and the kernel lets go for the killed. A
 * request that its asker did not live to see answered is answered all the same, before the next.
 */
#include "soft/gpu/shared.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define LOOK_NS  20000000ull   /* the other may have died: look this often */
#define GRACE_NS 1000000000ull /* for a request that is being seen to when its time is up */

static pthread_mutex_t asking = PTHREAD_MUTEX_INITIALIZER; /* a record lock is the process's */

static void wake(soft_u32 *word)
{
    atomic_fetch_add(word, 1);
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static void wait_for(soft_u32 *word, uint32_t seen, uint64_t ns)
{
    struct timespec t = {(time_t)(ns / 1000000000ull), (long)(ns % 1000000000ull)};

    syscall(SYS_futex, word, FUTEX_WAIT, seen, &t, NULL, 0);
}

int soft_mail_slot(struct soft_state *state, int32_t pid, uint64_t *inc)
{
    uint32_t high = soft_slots_high(state);

    for (uint32_t i = 0; pid > 0 && i < high; i++) {
        struct soft_shared_slot *slot = &state->map->slot[i];
        uint64_t word = atomic_load(&slot->state);

        if (SOFT_SLOT_IS(word) != SOFT_SLOT_LIVE || atomic_load(&slot->left) != 0 ||
            atomic_load(&slot->mail.thread) == SOFT_MAIL_NOBODY ||
            soft_slot_pid(state, (int)i) != pid)
            continue;
        *inc = SOFT_SLOT_INC(word);
        return (int)i;
    }
    return -1;
}

static bool is_gone(struct soft_state *state, int slot, uint64_t inc)
{
    return atomic_load(&state->map->slot[slot].state) != SOFT_SLOT_WORD(inc, SOFT_SLOT_LIVE) ||
           atomic_load(&state->map->slot[slot].left) != 0 || soft_slot_is_dead(state, slot);
}

static bool hold_line(struct soft_state *state, int slot, short type)
{
    struct flock lock = {
        .l_type = type, .l_whence = SEEK_SET, .l_start = SOFT_MAX_SLOTS + slot, .l_len = 1};

    return fcntl(state->slots_fd, F_SETLK, &lock) == 0;
}

static bool is_late(const struct soft_mail_args *args)
{
    return args->until_ns != 0 && soft_now_ns() >= args->until_ns;
}

static bool is_answered(const struct soft_shared_mail *mail, uint64_t request)
{
    return SOFT_MAIL_OP(request) == SOFT_MAIL_NONE ||
           (uint32_t)(atomic_load(&mail->answer) >> 32) == SOFT_MAIL_NUMBER(request);
}

/* Nobody has taken it: then it was never asked. False: it is being seen to. */
static bool withdraw(struct soft_shared_mail *mail, uint32_t number, enum soft_mail_op op)
{
    uint64_t word = SOFT_MAIL_WORD(number, (uint32_t)op);

    return atomic_compare_exchange_strong(&mail->request, &word,
                                          SOFT_MAIL_WORD(number, SOFT_MAIL_NONE));
}

/* What was asked before is answered first: its asker is gone. */
static int wait_turn(struct soft_state *state, int slot, uint64_t inc,
                     const struct soft_mail_args *args)
{
    struct soft_shared_mail *mail = &state->map->slot[slot].mail;

    while (!hold_line(state, slot, F_WRLCK)) {
        if (is_gone(state, slot, inc))
            return -ESRCH;
        if (is_late(args))
            return -ETIME;
        usleep(1000);
    }
    for (;;) {
        uint32_t seen = atomic_load(&mail->answered);

        uint64_t before = atomic_load(&mail->request);

        if (is_answered(mail, before))
            return 0;
        atomic_store(&mail->given_up, SOFT_MAIL_NUMBER(before));
        if (is_gone(state, slot, inc))
            return -ESRCH;
        if (is_late(args))
            return -ETIME;
        wait_for(&mail->answered, seen, LOOK_NS);
    }
}

static int ask(struct soft_state *state, int slot, uint64_t inc, enum soft_mail_op op,
               const struct soft_mail_args *args)
{
    struct soft_shared_mail *mail = &state->map->slot[slot].mail;
    uint32_t number = SOFT_MAIL_NUMBER(atomic_load(&mail->request)) + 1;
    uint64_t word = SOFT_MAIL_WORD(number, (uint32_t)op);

    mail->args = *args;
    mail->args.own = slot == state->slot;
    atomic_store(&mail->request, word);
    wake(&mail->bell);
    for (;;) {
        uint32_t seen = atomic_load(&mail->answered);

        if (is_answered(mail, word))
            return (int)(uint32_t)atomic_load(&mail->answer);
        if (is_gone(state, slot, inc))
            return -ESRCH;
        /* taken: it sees itself that it is late, and undoes what it did; unless it is stopped */
        if (is_late(args) &&
            (withdraw(mail, number, op) || soft_now_ns() > args->until_ns + GRACE_NS))
            return -ETIME;
        wait_for(&mail->answered, seen, LOOK_NS);
    }
}

int soft_mail_ask(struct soft_state *state, int slot, uint64_t inc, enum soft_mail_op op,
                  const struct soft_mail_args *args)
{
    int result;

    pthread_mutex_lock(&asking);
    result = wait_turn(state, slot, inc, args);
    if (result == 0)
        result = ask(state, slot, inc, op, args);
    hold_line(state, slot, F_UNLCK);
    pthread_mutex_unlock(&asking);
    return result;
}

enum soft_mail_op soft_mail_next(struct soft_shared_mail *mail, struct soft_mail_args *args)
{
    for (;;) {
        uint32_t seen = atomic_load(&mail->bell);
        uint64_t word = atomic_load(&mail->request);

        if (SOFT_MAIL_OP(word) != SOFT_MAIL_NONE && (word & SOFT_MAIL_TAKEN) == 0 &&
            atomic_compare_exchange_strong(&mail->request, &word, word | SOFT_MAIL_TAKEN)) {
            *args = mail->args;
            return (enum soft_mail_op)SOFT_MAIL_OP(word);
        }
        wait_for(&mail->bell, seen, 10000000000ull);
    }
}

bool soft_mail_is_awaited(struct soft_state *state)
{
    struct soft_shared_mail *mail = &state->map->slot[state->slot].mail;
    struct flock line = {.l_type = F_WRLCK,
                         .l_whence = SEEK_SET,
                         .l_start = SOFT_MAX_SLOTS + state->slot,
                         .l_len = 1};

    if (atomic_load(&mail->given_up) == SOFT_MAIL_NUMBER(atomic_load(&mail->request)))
        return false;
    return mail->args.own != 0 || fcntl(state->slots_fd, F_GETLK, &line) != 0 ||
           line.l_type != F_UNLCK;
}

void soft_mail_answer(struct soft_shared_mail *mail, int result)
{
    uint32_t number = SOFT_MAIL_NUMBER(atomic_load(&mail->request));

    atomic_store(&mail->answer, (uint64_t)number << 32 | (uint32_t)result);
    wake(&mail->answered);
}

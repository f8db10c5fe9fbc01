/* SPDX-License-Identifier: Apache-2.0
 *
 * Another harp-link in the place of one that accepts: at SIGUSR2 it becomes what is at its path by
 * then, with the arguments it has. Its pid, its socket and its sessions' processes, which are its
 * children, stay. Tried before: one that does not come up, or knows another state, is not become.
 */
#ifndef HARP_LINK_UPGRADE_H
#define HARP_LINK_UPGRADE_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* What goes over. Whoever changes this, or what lies in shared memory, counts on. */
#define UPGRADE_VERSION 1u
#define UPGRADE_PLACES  256u
struct upgrade_state {
    unsigned version;
    int listener;
    int shared[2]; /* far: memory that sessions' processes share */
    pid_t processes[UPGRADE_PLACES];
    int giving[UPGRADE_PLACES];
};

/* First of all. SIGUSR2 waits from here on, for upgrade_hear or upgrade_deaf. */
void upgrade_open(char **arguments);
/* All has been read that could be wrong. True: that was all that is asked. */
bool upgrade_tried(void);
/* Whether another has become this one, and what it had. */
bool upgrade_come(struct upgrade_state *state);

/* One that has a listener, and nothing else yet. */
void upgrade_begin(struct upgrade_state *state, int listener);

/* Hear SIGUSR2, but in `waiting` only. Children hear it, too, and nothing comes of it. */
void upgrade_hear(sigset_t *waiting);
/* One that cannot become another, and is not ended by it. */
void upgrade_deaf(void);
bool upgrade_asked(void);
/* Become it, with signals masked as in `usual`. Returns where that cannot be, and says why. */
void upgrade_go(const struct upgrade_state *state, const sigset_t *usual);

/* Until the listener has something, upgrading meanwhile. */
void upgrade_wait(const struct upgrade_state *state, const sigset_t *usual);

/* Memory that stays, and its descriptor. NULL: none. `fd` of one that was shared: that one. */
void *upgrade_share(size_t bytes, int *fd);

#endif

/* SPDX-License-Identifier: Apache-2.0
 *
 * The two ways to run harp-link.
 */
#ifndef HARP_LINK_ENDS_H
#define HARP_LINK_ENDS_H

#include <stdbool.h>
#include <sys/types.h>

#include "src/link/conn.h"

struct ends_options {
    const char *socket; /* near: where programs connect */
    struct harp_address address;
    struct harp_tls *tls;
    const char *name, *session;
    const char *sessions; /* folder of their files, instead of session and token */
    char *const *worker;  /* far: its command line */
    unsigned worker_args;
    bool attended; /* far, of a folder: began and ended are said, and stdin's end is the end */
    bool traffic;  /* of a folder: traffic is said, too (traffic.h) */
    char token[HARP_GRPC_TOKEN_BYTES]; /* "": none */
    unsigned resume_ms; /* far: how long a session outlives its connection, if it says nothing */
    unsigned others;    /* connections for streams of Bulk, beside Session's */
    struct harp_table_id own;
};

/* Beside programs: a process for each that connects. Beside the worker: one session, or those of a
 * folder. An exit code. */
int near_main(const struct ends_options *options);
int far_main(const struct ends_options *options);
int far_many(const struct ends_options *options);

/* near_listen.c: a socket of its owner's programs. -1: there is none, and why is said. */
int near_listen(const char *path);

/* A process of far_many's, shared with it. */
struct far_place {
    bool begun;                            /* a call was accepted */
    char session[HARP_GRPC_SESSION_BYTES]; /* whose, by then */
};

/* What has come by the connection `fd`. */
int far_one(const struct ends_options *options, int fd, struct far_place *place);

/* many.c: to whoever attends, in one write: lines of several processes do not mix. pid 0: none. */
void far_say(const struct ends_options *options, const char *what, const char *session, pid_t pid);

/* many.c: a session by its file. Zeroed but for fd -1 at first. */
struct far_session {
    int fd;
    char name[HARP_GRPC_SESSION_BYTES], text[4096];
    const char *token; /* one that nobody has, where there is no such session */
    char *environment;
};
void far_session_open(struct far_session *session, const char *folder, const char *name);
/* False: it runs in another process. */
bool far_session_lock(const struct far_session *session);
bool far_session_taken_away(const struct far_session *session);
/* How long it outlives its connection: `resume_s=` of its file, or what is given. */
unsigned far_session_resume_ms(const struct far_session *session, unsigned given_ms);
/* By the worker's process, before exec. */
void far_session_environment(struct far_session *session);

/* far_worker.c: a session's worker, on one end of a socket pair, the other is *sock. 0 or an errno.
 * It ends by itself when its socket does; after 2 s it is ended. */
int far_worker_start(const struct ends_options *options, struct far_session *session, int *sock);
void far_worker_end(int sock);

/* offers.c: near's sessions by their files. Zeroed but for fd -1 at first. */
struct near_offer {
    int fd;
    char name[HARP_GRPC_SESSION_BYTES], token[HARP_GRPC_TOKEN_BYTES], text[2048];
    const char *peer; /* whom the certificate must be for; NULL: the host */
    struct harp_address address;
};
/* By a session's process: one for the program at `sock`, which may have to wait for it. 0, or an
 * errno and why (HARP_WHY_BYTES). */
int near_offer_take(struct near_offer *offer, const struct ends_options *options, int sock,
                    char *why);
/* Until stdout's reader has gone: `serve` in a process for each program that connects to the
 * listener of `state`, or `no_process` where there cannot be one more. `come`: in the place of
 * another (upgrade.h). */
struct upgrade_state;
void near_offers(const struct ends_options *options, struct upgrade_state *state, bool come,
                 int (*serve)(int sock), void (*no_process)(int sock));

/* Seconds of a user's as ms; -1: not 0 to 3600. */
#define ENDS_RESUME_MAX_S 3600
int ends_resume_ms(const char *text);

#endif

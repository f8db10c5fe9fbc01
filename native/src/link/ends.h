/* SPDX-License-Identifier: Apache-2.0
 *
 * The two ways to run harp-link.
 */
#ifndef HARP_LINK_ENDS_H
#define HARP_LINK_ENDS_H

#include "src/link/conn.h"

struct ends_options {
    const char *socket; /* near: where programs connect */
    struct harp_address address;
    struct harp_tls *tls;
    const char *name, *session;
    const char *sessions; /* far: folder of their files, instead of session and token */
    char *const *worker;  /* far: its command line */
    unsigned worker_args;
    char token[HARP_GRPC_TOKEN_BYTES]; /* "": none */
    unsigned resume_ms; /* far: how long a session outlives its connection, if it says nothing */
    struct harp_table_id own;
};

/* Beside programs: a process for each that connects. Beside the worker: one session, or those of a
 * folder. An exit code. */
int near_main(const struct ends_options *options);
int far_main(const struct ends_options *options);
int far_many(const struct ends_options *options);

/* What has come by the connection `fd`; *begun: a call was accepted. */
int far_one(const struct ends_options *options, int fd, bool *begun);

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

/* Seconds of a user's as ms; -1: not 0 to 3600. */
#define ENDS_RESUME_MAX_S 3600
int ends_resume_ms(const char *text);

#endif

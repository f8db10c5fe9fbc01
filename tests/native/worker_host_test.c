/* SPDX-License-Identifier: Apache-2.0
 *
 * A driver calls a function of the client's that is none any more: the session ends, and nobody
 * waits for another meanwhile.
 */
#include <setjmp.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "src/worker/handles.h"
#include "src/worker/worker.h"

static jmp_buf end;
static struct session session;
static struct lane lane = {.session = &session};

void session_end(const char *why)
{
    CHECK(strstr(why, "replaced or refused") != NULL);
    host_answered(&session, 1); /* as whoever reads may have to, until it is over */
    longjmp(end, 1);
}

/* None of these is called. */
void session_put(struct session *s, struct harp_ring_record *record, const void *body)
{
    (void)s;
    (void)record;
    (void)body;
    CHECK(false);
}

void session_attend(struct session *s)
{
    session_put(s, NULL, NULL);
}

void call_tell(struct session *s, unsigned op, unsigned id, const uint64_t *args)
{
    (void)op;
    (void)id;
    session_put(s, NULL, args);
}

void harp_ring_wake(struct harp_ring *ring)
{
    (void)ring;
    CHECK(false);
}

int harp_wire_put_request(struct harp_wire_call *call, const struct harp_wire_side *side,
                          struct harp_wire_buffer *out)
{
    (void)call;
    (void)side;
    (void)out;
    CHECK(false);
    return 0;
}

void (*driver_named(const char *name))(void)
{
    (void)name;
    return NULL;
}

void (*driver_own(const char *name))(void)
{
    return driver_named(name);
}

int main(void)
{
    CUhostFn fn;
    void *data;
    const uint64_t args[HARP_WIRE_SLOTS] = {0};
    alarm(60);
    CHECK(host_function(&lane, 7, true, &fn, &data) == 0);
    host_after(&lane, HARP_OP_cuLaunchHostFunc, CUDA_ERROR_INVALID_VALUE, args);
    if (setjmp(end) == 0) {
        fn(data);
        CHECK(false);
    }
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * A whole harp-worker, built with ASan and UBSan, and a client that says what it likes in frames
 * that are well enough made to be looked at: calls drawn from the rows, with ids and addresses that
 * are often the session's own, damaged every other time. A session may end with a reason (exit
 * status 0 or 2), and with nothing else.
 *
 *   worker_frames_fuzz WORKER DRIVER SEED FRAMES
 *
 * No function for libFuzzer: what a worker does depends on all that was said to it before.
 */
#include <errno.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/wire/frame.h"
#include "src/wire/ring.h"
#include "wire_fill.h"

#define A_SESSION 20000u /* frames */
#define CONTESTED 1500u  /* of one in which soon not much is left */
#define LANES     6u
#define PLACES    16u
#define KINDS     64u
#define EACH      4u

static struct wire_fill random_numbers;
static unsigned long long frames, replies, successes, sessions, cut_short, refused;
static bool succeeded[HARP_OPS]; /* ops that the driver has done once */

/* What the client knows of its session. */
static struct {
    struct harp_ring ring;
    int sock;
    pid_t pid;
    uint64_t minted;               /* the last id of ours */
    uint64_t made[KINDS][EACH];    /* ids by kind */
    uint64_t place[PLACES];        /* device addresses that were answered */
    unsigned places, next, hushed; /* calls that hold a stream up for ever are not made */
    bool contested;
    uint64_t alloc_seq, awaited; /* awaited: a reply; 0: it has come */
} s;

static char folder[64] = "/dev/shm/harp-test-XXXXXX"; /* the device's */

static int away(const char *path, const struct stat *st, int type, struct FTW *where)
{
    (void)st, (void)type, (void)where;
    return remove(path);
}

static uint32_t draw(uint32_t below)
{
    return wire_random(&random_numbers) % below;
}

static void broken(const char *what, int status)
{
    fprintf(stderr, "broken: %s: status %#x\n", what, (unsigned)status);
    if (s.pid > 0)
        kill(s.pid, SIGKILL);
    exit(1);
}

/* --- calls ------------------------------------------------------------------------------------ */

/* One of its kind that was made lately, if there is one; or any, and one that is nobody's yet. */
static int id_of(void *ctx, enum harp_handle kind, uint64_t value, uint64_t *id)
{
    (void)ctx, (void)value;
    uint64_t made = s.made[kind % KINDS][draw(EACH)];
    *id = made != 0 && draw(16) != 0 ? made : 3 + draw((uint32_t)s.minted);
    return 0;
}

static int mint(void *ctx, enum harp_handle kind, uint64_t *id)
{
    (void)ctx;
    *id = draw(50) != 0 ? ++s.minted : 3 + draw((uint32_t)s.minted);
    s.made[kind % KINDS][draw(EACH)] = *id;
    return 0;
}

static int transfer(void *ctx, enum harp_wire_way way, uint64_t bytes, void **data, uint64_t *id)
{
    (void)ctx, (void)way, (void)bytes, (void)data;
    *id = 1 + draw(20); /* announced, or not */
    return 0;
}

static const struct harp_wire_side side = {.id_of = id_of, .mint = mint, .transfer = transfer};

/* Waits for a word that nobody writes: a thread of the worker's would never come back. */
static bool holds_up(const char *name)
{
    return strstr(name, "WaitValue") != NULL || strstr(name, "BatchMemOp") != NULL ||
           strstr(name, "ExternalSemaphores") != NULL;
}

static void damage(uint8_t *body, uint64_t *bytes)
{
    for (uint32_t n = draw(3); n > 0 && *bytes != 0; n--)
        body[draw((uint32_t)*bytes)] = (uint8_t)draw(256);
    for (uint32_t n = draw(3); n > 0 && *bytes >= 8 && s.places != 0; n--) {
        uint64_t at = s.place[draw(s.places)] + draw(4) * 8;
        memcpy(body + draw((uint32_t)(*bytes / 4) - 1) * 4, &at, sizeof at);
    }
    if (draw(16) == 0)
        *bytes = draw((uint32_t)*bytes + 1);
}

/* --- records ---------------------------------------------------------------------------------- */

/* What has come; false: the session has ended. */
static bool hear(void)
{
    static uint8_t body[HARP_WIRE_BODY_BYTES];
    struct harp_ring_record r;
    int got;
    while ((got = harp_ring_take(&s.ring, &r, body, sizeof body)) == 1) {
        if (r.flags & HARP_FRAME_REPLY) {
            replies++;
            s.awaited = s.awaited == r.ack ? 0 : s.awaited;
            if (r.bytes >= 4 && memcmp(body, "\0\0\0", 4) == 0 && r.op < HARP_OPS) {
                successes++;
                succeeded[r.op] = true;
            }
        }
        if ((r.flags & HARP_FRAME_REPLY) && r.ack == s.alloc_seq && r.bytes == 16) {
            memcpy(&s.place[s.next++ % PLACES], body + 8, 8); /* behind result and presence */
            s.places += s.places < PLACES;
        }
        if ((r.flags & (HARP_FRAME_REVERSE | HARP_FRAME_WANTED)) ==
            (HARP_FRAME_REVERSE | HARP_FRAME_WANTED)) {
            const uint32_t success = 0;
            struct harp_ring_record answer = {.bytes = sizeof success,
                                              .op = r.op,
                                              .flags = HARP_FRAME_REVERSE | HARP_FRAME_REPLY,
                                              .ack = r.seq};
            harp_ring_put(&s.ring, &answer, &success);
        }
    }
    if (got == -EPROTO)
        broken("the worker writes nonsense", 0);
    return !harp_ring_gone(&s.ring);
}

static bool put(struct harp_ring_record *r, const void *body)
{
    for (int tries = 0; harp_ring_put(&s.ring, r, body) == -EAGAIN; tries++) {
        if (!hear() || tries == 2000)
            return false;
        harp_ring_wait_room(&s.ring, r->bytes, 5);
    }
    frames++;
    return true;
}

static bool say(unsigned op, struct harp_wire_call *call, uint32_t flags, uint32_t lane, bool spoil)
{
    static uint8_t room[HARP_WIRE_BODY_BYTES];
    struct harp_wire_buffer out = {room, sizeof room / 2, 0};
    call->op = (uint16_t)op;
    if (harp_wire_put_request(call, &side, &out) != 0)
        out.used = draw(64); /* whatever was there before */
    if (spoil)
        damage(room, &out.used);
    struct harp_ring_record r = {
        .bytes = (uint32_t)out.used, .op = op, .flags = flags, .lane = lane};
    bool there = put(&r, room);
    if (op == HARP_OP_cuMemAlloc_v2)
        s.alloc_seq = r.seq;
    return there;
}

/* Until all that was said on every lane has been answered. false: the session has ended, or a lane
 * waits for something: then it has to end with its client all the same. */
static bool answered(void)
{
    for (uint32_t lane = 1; lane <= LANES; lane++) {
        struct harp_ring_record r = {.flags = HARP_FRAME_WANTED, .lane = lane};
        int version = 0;
        struct harp_wire_call call = {.op = HARP_OP_cuDriverGetVersion,
                                      .args = {(uintptr_t)&version}};
        uint8_t room[64];
        struct harp_wire_buffer out = {room, sizeof room, 0};
        if (harp_wire_put_request(&call, &side, &out) != 0)
            broken("a call that asks nothing does not encode", 0);
        r.op = call.op;
        r.bytes = (uint32_t)out.used;
        if (!put(&r, room))
            return false;
        s.awaited = r.seq;
        harp_ring_wake(&s.ring);
        for (int quiet = 0; s.awaited != 0;) { /* for a second */
            if (!hear() || quiet == 200)
                return false;
            if (s.awaited != 0 && harp_ring_wait(&s.ring, HARP_RING_FIRST, 5) == -ETIMEDOUT)
                quiet++;
        }
    }
    return true;
}

static bool announce(void)
{
    struct harp_ring_region region = {draw(64) * HARP_RING_PAGE, 1 + draw(1 << 18)};
    if (draw(2000) == 0)
        region.bytes = (uint64_t)draw(1 << 30) << draw(30);
    struct harp_ring_record r = {.bytes = sizeof region,
                                 .flags = HARP_FRAME_BULK | (draw(4) != 0 ? HARP_FRAME_END : 0u),
                                 .lane = 1 + draw(LANES),
                                 .ack = 1 + draw(20)};
    return put(&r, &region);
}

/* Lanes use and end the same few things, by calls that run beside each other. */
static bool contested(void)
{
    const uint64_t any = 3, at = s.places == 0 ? 0 : s.place[draw(s.places)];
    uint64_t out = 0;
    const struct {
        unsigned op;
        uint64_t args[4];
    } calls[] = {{HARP_OP_cuCtxCreate_v2, {(uintptr_t)&out, 0, draw(2)}},
                 {HARP_OP_cuCtxSetCurrent, {any}},
                 {HARP_OP_cuCtxDestroy_v2, {any}},
                 {HARP_OP_cuCtxSynchronize, {0}},
                 {HARP_OP_cuDevicePrimaryCtxReset_v2, {draw(2)}},
                 {HARP_OP_cuStreamCreate, {(uintptr_t)&out, draw(2)}},
                 {HARP_OP_cuStreamSynchronize, {any}},
                 {HARP_OP_cuStreamDestroy_v2, {any}},
                 {HARP_OP_cuEventRecord, {any, any}},
                 {HARP_OP_cuStreamWaitEvent, {any, any}},
                 {HARP_OP_cuEventDestroy_v2, {any}},
                 {HARP_OP_cuMemAlloc_v2, {(uintptr_t)&out, 1 << 16}},
                 {HARP_OP_cuMemFree_v2, {at}},
                 {HARP_OP_cuMemsetD8Async, {at, 0, 64, any}}};
    const unsigned i = draw(sizeof calls / sizeof *calls);
    struct harp_wire_call call = {.args = {0}};
    memcpy(call.args, calls[i].args, sizeof calls[i].args);
    return say(calls[i].op, &call, HARP_FRAME_WANTED, 1 + draw(LANES), false);
}

static bool one(void)
{
    unsigned op = HARP_OP_FIRST + draw(HARP_OPS - HARP_OP_FIRST);
    const struct harp_wire_op *row = harp_wire_op(op);
    if (s.contested && draw(32) != 0)
        return contested();
    if (draw(40) == 0)
        return announce();
    if (row == NULL || holds_up(row->name)) {
        s.hushed++;
        return true;
    }
    struct wire_fill fill = {.seed = wire_random(&random_numbers)};
    struct harp_wire_call call = {.op = (uint16_t)op};
    wire_fill_request(&fill, &call);
    static const uint32_t flags[] = {0, HARP_FRAME_WANTED, HARP_FRAME_PER_THREAD};
    bool there = say(op, &call, flags[draw(3)], 1 + draw(LANES), draw(2) != 0);
    wire_fill_free(&fill);
    return there;
}

/* --- sessions --------------------------------------------------------------------------------- */

static void begin(const char *worker, const char *driver)
{
    int ends[2];
    char text[512], number[16], table[HARP_TABLE_TEXT];
    struct harp_table_id own;
    memset(&s, 0, sizeof s);
    s.minted = 2;
    s.contested = draw(2) == 0;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        broken("no sockets", errno);
    s.sock = ends[0];
    snprintf(number, sizeof number, "%d", ends[1]);
    s.pid = fork();
    if (s.pid == 0) {
        if (dup2(ends[1], 3) < 0) /* and without CLOEXEC */
            _exit(98);
        execl(worker, worker, "--socket", "3", "--driver", driver, (char *)NULL);
        _exit(98);
    }
    close(ends[1]);
    harp_table_own(&own, "fuzz");
    harp_table_put(table, &own);
    int err = harp_ring_dial(&s.ring, s.sock, NULL, table, 30000, text, sizeof text);
    if (err != 0) {
        fprintf(stderr, "%s\n", text);
        broken("the worker does not begin", err);
    }
    sessions++;
}

/* Some of each kind that others are made of; once more from time to time, for they are destroyed.
 */
static bool supplies(void)
{
    static const unsigned ops[] = {HARP_OP_cuCtxCreate_v2, HARP_OP_cuStreamCreate,
                                   HARP_OP_cuEventCreate, HARP_OP_cuGraphCreate};
    uint64_t out = 0;
    bool there = true;
    for (unsigned i = 0; i < 4 * LANES && there; i++) { /* each lane has one of each */
        struct harp_wire_call call = {
            .args = {(uintptr_t)&out, ops[i / LANES] == HARP_OP_cuStreamCreate}};
        there = say(ops[i / LANES], &call, 0, 1 + i % LANES, false);
    }
    for (unsigned i = 0; i < 2 && there; i++) {
        struct harp_wire_call call = {.args = {(uintptr_t)&out, 1 << 16}};
        there = say(HARP_OP_cuMemAlloc_v2, &call, HARP_FRAME_WANTED, 1, false) && answered();
    }
    return there;
}

static bool first_words(void)
{
    uint64_t devices = 0, version = 0, mode = 0;
    struct harp_wire_call call = {
        .args = {(uintptr_t)&devices, (uintptr_t)&version, (uintptr_t)&mode}};
    bool there = say(HARP_OP_harpSession, &call, HARP_FRAME_WANTED, 1, false) && supplies();
    if (there && s.places == 0)
        broken("no memory for a beginning", 0);
    return there;
}

static void end(bool there)
{
    int status = 0;
    cut_short += !there;
    close(s.sock);
    for (int i = 0; waitpid(s.pid, &status, WNOHANG) == 0; i++) {
        if (i == 6000)
            broken("the worker does not end with its client", 0);
        usleep(5000);
    }
    s.pid = 0;
    if (!WIFEXITED(status) || (WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != 2))
        broken("the worker died", status);
    refused += WEXITSTATUS(status) == 2;
    harp_ring_close(&s.ring);
}

static void cleared(void)
{
    nftw(folder, away, 8, FTW_DEPTH | FTW_PHYS);
}

int main(int argc, char **argv)
{
    const char *in = getenv("HARP_TEST_FOLDER"); /* whose maker clears it, whatever comes */
    if (in != NULL)
        snprintf(folder, sizeof folder, "%s/XXXXXX", in);
    if (argc != 5 || mkdtemp(folder) == NULL)
        return 2;
    atexit(cleared);
    setenv("HARP_SOFT_DIR", folder, 1);
    setenv("HARP_SOFT_DEVICES", "h100-80g,tiny", 1);
    setenv("HARP_SOFT_TEARDOWN_MS", "0", 1);
    random_numbers.seed = strtoull(argv[3], NULL, 0);
    unsigned long long wanted = strtoull(argv[4], NULL, 0);
    signal(SIGPIPE, SIG_IGN);
    setenv("ASAN_OPTIONS", "exitcode=99:detect_leaks=0:allocator_may_return_null=1", 1);
    setenv("UBSAN_OPTIONS", "halt_on_error=1:exitcode=99", 1);
    while (frames < wanted) {
        begin(argv[1], argv[2]);
        bool there = first_words();
        const unsigned most = s.contested ? CONTESTED : A_SESSION;
        for (unsigned i = 0; i < most && frames < wanted && there; i++) {
            there = one() && (i % 250 != 249 || (answered() && supplies()));
            harp_ring_wake(&s.ring);
        }
        end(there);
    }
    unsigned ops = 0;
    for (unsigned i = 0; i < HARP_OPS; i++)
        ops += succeeded[i];
    printf(
        "seed %s: %llu frames, %llu replies, %llu of success by %u ops; %llu sessions, %llu ended "
        "before they were over, %llu of them with a reason\n",
        argv[3], frames, replies, successes, ops, sessions, cut_short, refused);
    /* Else little of this went further than the decoder. */
    return replies < frames / 10 || successes < replies / 100 || ops < 50;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * The arbiter's core fed with arbitrary events: no crash, no broken sum, no more time charged than
 * has passed, and a tenant that keeps quiet never changes, whatever the others say.
 *
 * LLVMFuzzerTestOneInput for libFuzzer; with HARP_FUZZ_MAIN a main that draws inputs from a seeded
 * generator, for ctest.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/arbiter/core.h"

#define CLIENTS 8u
#define DEVICES 2u
#define START   1000000000u

struct run {
    struct harp_core *core;
    uint64_t now;
    uint32_t joined;
    uint32_t ids[CLIENTS];
    uint64_t epoch[CLIENTS][DEVICES][HARP_TIME_LANES];
    uint32_t move[CLIENTS][DEVICES]; /* the last EVICT or RESTORE it was sent */
    uint64_t evicted, restored;
    uint64_t quiet_leased; /* what the last snapshot said of the quiet tenant */
    uint64_t used_ns[DEVICES];
    uint64_t opened[HARP_TIME_LANES], renewed;
};

static void emit(void *ctx, const struct harp_action *action)
{
    struct run *run = ctx;
    if (action->kind == HARP_ACT_JOINED)
        run->joined = action->client;
    for (uint32_t i = 0; i < CLIENTS && action->kind == HARP_ACT_CLOSE; i++)
        if (run->ids[i] == action->client)
            run->ids[i] = 0;
    for (uint32_t i = 0; i < CLIENTS && action->kind == HARP_ACT_SEND; i++)
        if (run->ids[i] == action->client && action->msg.op == HARP_OPEN_GATE) {
            run->opened[action->msg.cls]++;
            run->renewed += action->msg.a;
            run->epoch[i][action->msg.dev][action->msg.cls] = action->msg.epoch;
        }
    int evict = action->msg.op == HARP_EVICT, restore = action->msg.op == HARP_RESTORE;
    for (uint32_t i = 0; i < CLIENTS && action->kind == HARP_ACT_SEND && (evict || restore); i++)
        if (run->ids[i] == action->client) {
            run->evicted += (uint64_t)evict;
            run->restored += (uint64_t)restore;
            run->move[i][action->msg.dev] = action->msg.seq;
        }
    if (action->kind == HARP_ACT_REPLY && action->msg.op == HARP_SNAP_USE &&
        action->msg.tenant == 2)
        run->quiet_leased += action->msg.leased_bytes;
    if (action->kind == HARP_ACT_REPLY && action->msg.op == HARP_SNAP_USE)
        run->used_ns[action->msg.dev] += action->msg.used_ns;
}

static void step(struct run *run, uint32_t kind, uint32_t client, const struct harp_msg *msg)
{
    struct harp_event event = {.kind = kind, .client = client, .msg = *msg};
    const struct harp_sink sink = {.emit = emit, .ctx = run};
    event.msg.version = HARP_LEASE_VERSION;
    harp_core_step(run->core, &event, run->now, &sink);
    const char *broken = harp_core_check(run->core);
    if (broken != NULL) {
        fprintf(stderr, "broken: %s (event %u op %u)\n", broken, kind, msg->op);
        abort();
    }
}

/* Tenant 2 is quiet. 1 and 3 compete. */
static void begin(struct run *run, void *memory, const struct harp_core_config *config)
{
    run->core = harp_core_init(memory, config);
    for (uint8_t d = 0; d < DEVICES; d++)
        step(run, HARP_EV_ADMIN, 0,
             &(struct harp_msg){
                 .op = HARP_ADD_DEVICE, .uuid = {d}, .capacity_bytes = 64 * HARP_GRANULE_BYTES});
    for (uint32_t t = 1; t <= 3; t++) {
        step(run, HARP_EV_ADMIN, 0, &(struct harp_msg){.op = HARP_ADD_TENANT, .tenant = t});
        for (uint32_t d = 0; d < DEVICES; d++)
            step(run, HARP_EV_ADMIN, 0,
                 &(struct harp_msg){.op = HARP_SET_TENANT,
                                    .tenant = t,
                                    .dev = d,
                                    .a = t == 2 ? 0 : HARP_GRANT_OVERSUBSCRIBE,
                                    .limit_bytes = (t == 2 ? 20 : 50) * HARP_GRANULE_BYTES});
    }
    /* The quiet tenant: five granules, and never a word again. */
    step(run, HARP_EV_JOIN, 0, &(struct harp_msg){.tenant = 2});
    uint32_t quiet = run->joined;
    step(run, HARP_EV_MESSAGE, quiet, &(struct harp_msg){.op = HARP_HELLO});
    step(run, HARP_EV_MESSAGE, quiet,
         &(struct harp_msg){.op = HARP_LEASE_MEM, .bytes = 5 * HARP_GRANULE_BYTES});
}

/* Now and then an op that no client may send; mostly those of time. */
static uint16_t op_of(const uint8_t *data)
{
    static const uint8_t usual[] = {
        HARP_WANT_TIME, HARP_YIELD_TIME, HARP_USED_TIME,  HARP_WANT_TIME, HARP_YIELD_TIME,
        HARP_USED_TIME, HARP_LEASE_MEM,  HARP_RETURN_MEM, HARP_RECALLED,  HARP_MEM_INFO,
        HARP_EVICTED,   HARP_RESTORED,   HARP_LEASE_MEM,  HARP_EVICTED,   HARP_RESTORED,
    };
    return data[0] >> 4 == 0 ? data[3] % 12 : usual[data[3] % sizeof usual];
}

/* Mostly the epoch that the client was told last on that lane: others are fenced off at once. */
static uint64_t epoch_of(const struct run *run, const uint8_t *data, uint8_t what)
{
    uint32_t dev = data[1] / CLIENTS % DEVICES, lane = data[4] / 16 % 2u;
    return what < 5 ? 0 : run->epoch[data[1] % CLIENTS][dev][lane];
}

/* Time goes by, with the ticks that the core asks for. */
static void pass(struct run *run, uint64_t ns)
{
    uint64_t until = run->now + ns;
    for (uint64_t due; (due = harp_core_next(run->core)) <= until;) {
        run->now = due > run->now ? due : run->now;
        step(run, HARP_EV_TICK, 0, &(struct harp_msg){.op = 0});
        if (harp_core_next(run->core) <= run->now) {
            fprintf(stderr, "broken: asks for a tick again and again\n");
            abort();
        }
    }
    run->now = until;
}

/* One event per 8 bytes of input and, where it says so, a message of raw bytes. */
static void consume(struct run *run, const uint8_t *data, size_t size)
{
    while (size >= 8) {
        uint8_t what = data[0] % 16;
        uint32_t slot = data[1] % CLIENTS;
        /* Mostly up to 6 ms, now and then up to 16 s. */
        pass(run, (uint64_t)data[2] * data[2] * (data[3] >> 4 == 15 ? data[2] * 1000u : 100u));
        struct harp_msg m = {.op = op_of(data),
                             .seq = data[4],
                             .dev = data[1] / CLIENTS % DEVICES,
                             .cls = data[4] == 0 ? 2u : data[4] / 16 % 2u,
                             .a = data[4] & 1u,
                             .b = data[4] >> 1 & 1u,
                             .c = data[4] >> 2 & 1u,
                             .tenant = data[5] % 2 != 0 ? 1 : 3,
                             .pid = (int32_t)slot + 1,
                             .epoch = data[5] % 16 == 0 ? data[5] : epoch_of(run, data, what),
                             .used_ns = (uint64_t)data[6] << (data[7] % 64),
                             .age_ns = (uint64_t)(data[7] / 64) << (data[5] % 32),
                             .window_ns = (uint64_t)data[7] << (data[6] % 32),
                             .bytes = (uint64_t)data[5] * HARP_GRANULE_BYTES};
        if (m.op == HARP_EVICTED || m.op == HARP_RESTORED) {
            m.seq = data[5] % 16 == 0 ? data[5] : run->move[slot][m.dev];
            m.b = data[6] % 16 == 0;
        } else if (m.cls == 1 && data[6] % 8 != 0 &&
                   (m.op == HARP_LEASE_MEM || m.op == HARP_RETURN_MEM)) {
            m.cls = HARP_MEM_SWAP;
            m.bytes = (data[5] % 32u + 1u) * HARP_GRANULE_BYTES;
        }
        data += 8;
        size -= 8;
        if (what == 0 || (what > 4 && run->ids[slot] == 0)) {
            step(run, HARP_EV_JOIN, 0, &m);
            if (run->joined != 0) {
                step(run, HARP_EV_DEAD, run->ids[slot], &m);
                run->ids[slot] = run->joined;
            }
            if (run->joined != 0)
                step(run, HARP_EV_MESSAGE, run->joined,
                     &(struct harp_msg){.op = HARP_HELLO, .b = m.b});
        } else if (what == 1) {
            step(run, HARP_EV_DEAD, run->ids[slot], &m);
            run->ids[slot] = 0;
        } else if (what == 2 && m.b != 0) {
            step(run, HARP_EV_ADMIN, 0,
                 &(struct harp_msg){.op = m.c != 0 ? HARP_RESUME : HARP_SUSPEND,
                                    .tenant = 1,
                                    .dev = m.c == 0 && m.a != 0 ? HARP_ALL_DEVICES : m.dev,
                                    .b = m.cls,
                                    .a = 1 + m.seq / 8 % 3u});
        } else if (what == 2) {
            step(run, HARP_EV_TICK, 0, &m);
        } else if (what == 3 && m.b != 0) {
            step(run, HARP_EV_ADMIN, 0,
                 &(struct harp_msg){.op = HARP_EXPECT,
                                    .tenant = m.tenant,
                                    .pid = m.pid,
                                    .dev = m.dev,
                                    .bytes = m.bytes,
                                    .overhead_bytes = HARP_GRANULE_BYTES,
                                    .limit_bytes = m.bytes,
                                    .a = m.a});
        } else if (what == 3) {
            m.client = run->ids[slot];
            step(run, HARP_EV_ADMIN, 0,
                 &(struct harp_msg){.op = HARP_DRAINED, .client = m.client, .dev = m.cls});
        } else if (what == 4) {
            step(run, HARP_EV_ADMIN, 0,
                 &(struct harp_msg){.op = HARP_SET_TENANT,
                                    .tenant = 1,
                                    .dev = m.dev,
                                    .limit_bytes = m.bytes,
                                    .a = m.a | (m.seq & 6u ? HARP_GRANT_OVERSUBSCRIBE : 0),
                                    .b = m.seq * 4000,
                                    .c = m.b != 0 ? m.seq * 3000 : 0,
                                    .d = m.seq % 3});
        } else if (what == 5 && data[-7] >> 6 == 0 && size >= sizeof m) {
            memcpy(&m, data, sizeof m);
            data += sizeof m;
            size -= sizeof m;
            step(run, HARP_EV_MESSAGE, run->ids[slot], &m);
        } else {
            step(run, HARP_EV_MESSAGE, run->ids[slot], &m);
        }
    }
}

static struct run seen; /* what all inputs together have reached */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct harp_core_config config = {.quantum_ns = 5000000,
                                            .burst_ns = 50000000,
                                            .policy = size > 0 ? data[0] / 16 % 3u : 0,
                                            .max_clients = 32,
                                            .max_tenant_clients = 32,
                                            .max_tenants = 4,
                                            .slack_bytes = HARP_GRANULE_BYTES,
                                            .slack_free_bytes = HARP_GRANULE_BYTES};
    struct run run = {.now = START};
    void *memory = calloc(1, harp_core_bytes(&config));
    if (memory == NULL)
        return 0;
    begin(&run, memory, &config);
    consume(&run, data, size);
    step(&run, HARP_EV_ADMIN, 0, &(struct harp_msg){.op = HARP_SNAPSHOT});
    if (run.quiet_leased != 5 * HARP_GRANULE_BYTES) {
        fprintf(stderr, "the quiet tenant's lease became %llu\n",
                (unsigned long long)run.quiet_leased);
        abort();
    }
    for (uint32_t d = 0; d < DEVICES; d++)
        if (run.used_ns[d] > run.now - START) {
            fprintf(stderr, "device %u: charged %llu ns in %llu\n", d,
                    (unsigned long long)run.used_ns[d], (unsigned long long)(run.now - START));
            abort();
        }
    seen.opened[0] += run.opened[0];
    seen.opened[1] += run.opened[1];
    seen.renewed += run.renewed;
    seen.evicted += run.evicted;
    seen.restored += run.restored;
    free(memory);
    return 0;
}

#ifdef HARP_FUZZ_MAIN
int main(int argc, char **argv)
{
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    unsigned rounds = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 0) : 300;
    static uint8_t data[8192];
    printf("seed %llu, %u rounds\n", (unsigned long long)seed, rounds);
    for (unsigned i = 0; i < rounds; i++) {
        for (size_t b = 0; b < sizeof data; b++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            data[b] = (uint8_t)(seed >> 56);
        }
        (void)LLVMFuzzerTestOneInput(data, sizeof data);
    }
    printf("gates opened: %llu compute, %llu copy; renewals and changes: %llu; evictions: %llu, "
           "restores: %llu\n",
           (unsigned long long)seen.opened[0], (unsigned long long)seen.opened[1],
           (unsigned long long)seen.renewed, (unsigned long long)seen.evicted,
           (unsigned long long)seen.restored);
    return seen.opened[0] == 0 || seen.opened[1] == 0 || seen.renewed == 0 || seen.evicted == 0 ||
           seen.restored == 0;
}
#endif

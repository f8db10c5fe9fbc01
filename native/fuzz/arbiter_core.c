/* SPDX-License-Identifier: Apache-2.0
 *
 * The arbiter's core fed with arbitrary events: no crash, no broken sum, and a tenant that keeps
 * quiet never changes, whatever the other one says.
 *
 * LLVMFuzzerTestOneInput for libFuzzer; with HARP_FUZZ_MAIN a main that draws inputs from a seeded
 * generator, for ctest.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/arbiter/core.h"

#define CLIENTS 8u

struct run {
    struct harp_core *core;
    uint64_t now;
    uint32_t joined;
    uint32_t ids[CLIENTS];
    uint64_t quiet_leased; /* what the last snapshot said of the quiet tenant */
};

static void emit(void *ctx, const struct harp_action *action)
{
    struct run *run = ctx;
    if (action->kind == HARP_ACT_JOINED)
        run->joined = action->client;
    if (action->kind == HARP_ACT_REPLY && action->msg.op == HARP_SNAP_USE &&
        action->msg.tenant == 2)
        run->quiet_leased = action->msg.leased_bytes;
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

static void begin(struct run *run, void *memory)
{
    const struct harp_core_config config = {.quantum_ns = 5000000,
                                            .max_clients = 32,
                                            .max_tenant_clients = 32,
                                            .max_tenants = 4,
                                            .slack_bytes = HARP_GRANULE_BYTES,
                                            .slack_free_bytes = HARP_GRANULE_BYTES};
    run->core = harp_core_init(memory, &config);
    step(run, HARP_EV_ADMIN, 0,
         &(struct harp_msg){.op = HARP_ADD_DEVICE, .capacity_bytes = 64 * HARP_GRANULE_BYTES});
    for (uint32_t t = 1; t <= 2; t++) {
        step(run, HARP_EV_ADMIN, 0, &(struct harp_msg){.op = HARP_ADD_TENANT, .tenant = t});
        step(run, HARP_EV_ADMIN, 0,
             &(struct harp_msg){
                 .op = HARP_SET_TENANT, .tenant = t, .limit_bytes = 20 * HARP_GRANULE_BYTES});
    }
    /* The quiet tenant: five granules, and never a word again. */
    step(run, HARP_EV_JOIN, 0, &(struct harp_msg){.tenant = 2});
    uint32_t quiet = run->joined;
    step(run, HARP_EV_MESSAGE, quiet, &(struct harp_msg){.op = HARP_HELLO});
    step(run, HARP_EV_MESSAGE, quiet,
         &(struct harp_msg){.op = HARP_LEASE_MEM, .bytes = 5 * HARP_GRANULE_BYTES});
}

/* One event per 8 bytes of input and, where it says so, a message of raw bytes. */
static void consume(struct run *run, const uint8_t *data, size_t size)
{
    while (size >= 8) {
        uint8_t what = data[0] % 16;
        uint32_t slot = data[1] % CLIENTS;
        run->now += (uint64_t)data[2] * data[2] * data[2] * 1000;
        struct harp_msg m = {.op = (uint16_t)(data[3] % 12),
                             .seq = data[4],
                             .cls = data[4] % 3,
                             .a = data[4] & 1u,
                             .b = data[4] & 1u,
                             .tenant = 1,
                             .epoch = data[5],
                             .used_ns = (uint64_t)data[6] << (data[7] % 64),
                             .bytes = (uint64_t)data[5] * HARP_GRANULE_BYTES};
        data += 8;
        size -= 8;
        if (what == 0) {
            step(run, HARP_EV_JOIN, 0, &m);
            run->ids[slot] = run->joined;
            if (run->joined != 0)
                step(run, HARP_EV_MESSAGE, run->joined,
                     &(struct harp_msg){.op = HARP_HELLO, .b = m.b});
        } else if (what == 1) {
            step(run, HARP_EV_DEAD, run->ids[slot], &m);
        } else if (what == 2) {
            step(run, HARP_EV_TICK, 0, &m);
        } else if (what == 3) {
            m.client = run->ids[slot];
            step(run, HARP_EV_ADMIN, 0,
                 &(struct harp_msg){.op = HARP_DRAINED, .client = m.client, .dev = m.cls});
        } else if (what == 4) {
            step(run, HARP_EV_ADMIN, 0,
                 &(struct harp_msg){.op = HARP_SET_TENANT,
                                    .tenant = 1,
                                    .limit_bytes = m.bytes,
                                    .b = m.seq * 4000,
                                    .c = m.seq * 3000});
        } else if (what == 5 && size >= sizeof m) {
            memcpy(&m, data, sizeof m);
            data += sizeof m;
            size -= sizeof m;
            step(run, HARP_EV_MESSAGE, run->ids[slot], &m);
        } else {
            step(run, HARP_EV_MESSAGE, run->ids[slot], &m);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct harp_core_config config = {
        .quantum_ns = 5000000, .max_clients = 32, .max_tenant_clients = 32, .max_tenants = 4};
    struct run run = {.now = 1000000000};
    void *memory = calloc(1, harp_core_bytes(&config));
    if (memory == NULL)
        return 0;
    begin(&run, memory);
    consume(&run, data, size);
    step(&run, HARP_EV_ADMIN, 0, &(struct harp_msg){.op = HARP_SNAPSHOT});
    if (run.quiet_leased != 5 * HARP_GRANULE_BYTES) {
        fprintf(stderr, "the quiet tenant's lease became %llu\n",
                (unsigned long long)run.quiet_leased);
        abort();
    }
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
    return 0;
}
#endif

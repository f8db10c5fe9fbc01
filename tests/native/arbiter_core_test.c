/* SPDX-License-Identifier: Apache-2.0
 *
 * The arbiter's core in C, under sanitizers: a full machine, the most clients, each way to end.
 * The cases by themselves are in tests/unit/test_arbiter_*.py.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "src/arbiter/core.h"

static struct harp_core *core;
static uint64_t now = 1000000000;
static uint32_t joined, granted, denied, recalls, opened, closed, replies, errors;
static uint32_t recalled[1024], recalled_seq[1024];
static struct harp_msg use;

static void emit(void *ctx, const struct harp_action *a)
{
    joined = a->kind == HARP_ACT_JOINED ? a->client : joined;
    replies += a->kind == HARP_ACT_REPLY;
    errors += a->kind == HARP_ACT_REPLY && a->msg.op == HARP_ERR;
    if (a->kind == HARP_ACT_REPLY && a->msg.op == HARP_SNAP_USE && a->msg.tenant == 1)
        use = a->msg;
    if (a->kind != HARP_ACT_SEND)
        return;
    granted += a->msg.op == HARP_MEM_GRANT;
    denied += a->msg.op == HARP_MEM_DENY;
    opened += a->msg.op == HARP_OPEN_GATE;
    closed += a->msg.op == HARP_CLOSE_GATE;
    if (a->msg.op == HARP_RECALL_MEM && recalls < 1024) {
        recalled[recalls] = a->client;
        recalled_seq[recalls++] = a->msg.seq;
    }
}

static void step(uint32_t kind, uint32_t client, struct harp_msg msg)
{
    const struct harp_sink sink = {.emit = emit, .ctx = NULL};
    struct harp_event event = {.kind = kind, .client = client, .msg = msg};
    event.msg.version = HARP_LEASE_VERSION;
    harp_core_step(core, &event, now, &sink);
    const char *broken = harp_core_check(core);
    if (broken != NULL) {
        fprintf(stderr, "broken: %s\n", broken);
        exit(1);
    }
}

static void admin(struct harp_msg msg)
{
    step(HARP_EV_ADMIN, 0, msg);
}

static uint32_t join_as(uint32_t tenant, uint32_t uid)
{
    joined = 0;
    step(HARP_EV_JOIN, 0, (struct harp_msg){.tenant = tenant, .pid = 1, .uid = uid});
    if (joined != 0)
        step(HARP_EV_MESSAGE, joined, (struct harp_msg){.op = HARP_HELLO, .a = HARP_KIND_NULL});
    return joined;
}

static uint32_t join(uint32_t tenant)
{
    return join_as(tenant, 0);
}

/* A container's user is the image's to choose; a job's is its own. */
static void test_tenants_of_any_uid(void)
{
    admin((struct harp_msg){.op = HARP_ADD_TENANT, .tenant = 2, .uid = HARP_ANY_UID});
    admin((struct harp_msg){.op = HARP_ADD_TENANT, .tenant = 3, .uid = 1000});
    const uint32_t uids[] = {0, 1, 1000, 65534, HARP_ANY_UID - 1};
    for (uint32_t i = 0; i < sizeof uids / sizeof uids[0]; i++) {
        uint32_t client = join_as(2, uids[i]);
        CHECK(client != 0);
        step(HARP_EV_DEAD, client, (struct harp_msg){.op = 0});
        client = join_as(3, uids[i]);
        CHECK((client != 0) == (uids[i] == 0 || uids[i] == 1000));
        step(HARP_EV_DEAD, client, (struct harp_msg){.op = 0});
    }
    admin((struct harp_msg){.op = HARP_ADD_TENANT, .tenant = 2, .uid = 1000}); /* another's */
    CHECK(errors == 1);
    admin((struct harp_msg){.op = HARP_DEL_TENANT, .tenant = 2});
    admin((struct harp_msg){.op = HARP_DEL_TENANT, .tenant = 3});
    errors = 0;
}

/* 200 clients fill a limit to the last granule; the 201st granule costs one round of recalls. */
static void test_full_house(void)
{
    static uint32_t clients[200];
    admin((struct harp_msg){
        .op = HARP_SET_TENANT, .tenant = 1, .limit_bytes = 200 * HARP_GRANULE_BYTES});
    for (uint32_t i = 0; i < 200; i++) {
        clients[i] = join(1);
        CHECK(clients[i] != 0);
        step(HARP_EV_MESSAGE, clients[i],
             (struct harp_msg){.op = HARP_LEASE_MEM, .bytes = HARP_GRANULE_BYTES});
        step(HARP_EV_MESSAGE, clients[i], (struct harp_msg){.op = HARP_WANT_TIME});
    }
    CHECK(granted == 200 && denied == 0 && recalls == 0);
    CHECK(opened == 200 && closed == 0);
    for (uint32_t i = 0; i < 200; i++)
        step(HARP_EV_MESSAGE, clients[i],
             (struct harp_msg){.op = HARP_LEASE_MEM, .bytes = HARP_GRANULE_BYTES});
    CHECK(denied == 0 && recalls == 200); /* one round for the first; the others wait for it */
    uint32_t first_round = recalls;
    for (uint32_t i = 0; i < first_round; i++)
        step(HARP_EV_MESSAGE, recalled[i],
             (struct harp_msg){.op = HARP_RECALLED, .seq = recalled_seq[i]});
    CHECK(denied == 1 && recalls == 400); /* and one more round for all that came later */
    for (uint32_t i = first_round; i < 400; i++)
        step(HARP_EV_MESSAGE, recalled[i],
             (struct harp_msg){.op = HARP_RECALLED, .seq = recalled_seq[i]});
    CHECK(denied == 200 && recalls == 400 && granted == 200);
    admin((struct harp_msg){.op = HARP_SNAPSHOT});
    CHECK(use.leased_bytes == 200 * HARP_GRANULE_BYTES && use.denials == 200);
    for (uint32_t i = 0; i < 200; i++) {
        step(HARP_EV_DEAD, clients[i], (struct harp_msg){.op = 0});
        admin((struct harp_msg){.op = HARP_DRAINED, .client = clients[i], .dev = HARP_ALL_DEVICES});
    }
    admin((struct harp_msg){.op = HARP_SNAPSHOT});
    CHECK(use.leased_bytes == 0 && use.bytes == 0 && errors == 0);
    CHECK(harp_core_next(core) == HARP_NEVER);
}

static void test_limits_of_the_configuration(void)
{
    struct harp_core_config c = {
        .quantum_ns = 999999, .max_clients = 1, .max_tenant_clients = 1, .max_tenants = 1};
    CHECK(harp_core_bytes(&c) == 0);
    c.quantum_ns = 1000000;
    CHECK(harp_core_bytes(&c) != 0);
    c.max_clients = 1u << 14;
    CHECK(harp_core_bytes(&c) == 0);
}

static void test_devices_and_tenants_are_bounded(void)
{
    for (uint8_t i = 1; i < HARP_MAX_DEVICES; i++)
        admin((struct harp_msg){.op = HARP_ADD_DEVICE, .uuid = {i}, .capacity_bytes = 1});
    CHECK(errors == 0);
    admin((struct harp_msg){.op = HARP_ADD_DEVICE, .uuid = {99}});
    CHECK(errors == 1);
    for (uint32_t i = 2; i <= 8; i++)
        admin((struct harp_msg){.op = HARP_ADD_TENANT});
    CHECK(errors == 1);
    admin((struct harp_msg){.op = HARP_ADD_TENANT});
    CHECK(errors == 2);
    admin((struct harp_msg){.op = HARP_DEL_TENANT, .tenant = 8});
    admin((struct harp_msg){.op = HARP_ADD_TENANT, .tenant = 77});
    CHECK(errors == 2);
    admin((struct harp_msg){.op = HARP_SET_TENANT, .tenant = 77, .dev = 16});
    admin((struct harp_msg){.op = HARP_SET_TENANT, .tenant = 77, .b = 1000001});
    admin((struct harp_msg){.op = HARP_MEM_GRANT});
    CHECK(errors == 5);
}

int main(void)
{
    const struct harp_core_config config = {.quantum_ns = 5000000,
                                            .max_clients = 512,
                                            .max_tenant_clients = 400,
                                            .max_tenants = 8,
                                            .slack_bytes = HARP_GRANULE_BYTES,
                                            .slack_free_bytes = HARP_GRANULE_BYTES};
    void *memory = calloc(1, harp_core_bytes(&config));
    CHECK(memory != NULL);
    core = harp_core_init(memory, &config);
    admin((struct harp_msg){.op = HARP_ADD_DEVICE, .capacity_bytes = 1000 * HARP_GRANULE_BYTES});
    admin((struct harp_msg){.op = HARP_ADD_TENANT, .tenant = 1});
    test_tenants_of_any_uid();
    test_full_house();
    test_limits_of_the_configuration();
    test_devices_and_tenants_are_bounded();
    free(memory);
    return 0;
}

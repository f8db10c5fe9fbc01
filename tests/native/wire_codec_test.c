/* SPDX-License-Identifier: Apache-2.0
 *
 * The body codec, every op of the rows with made-up arguments:
 *
 *   T1  encode(decode(b)) == b, requests and replies
 *   T2  a body fits where there is room for exactly its size, and nowhere smaller
 *   T3  every byte counts: with one changed, it is refused or encodes to the changed bytes
 *   T4  every prefix is refused, from a block of exactly its size
 *   T5  the same as T3 with each word 0, all ones, random
 *   T6  with an arena too small it is refused, and nothing is written beyond it
 *
 * and what hooks, bounds and refusals must do.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "generated/cuda_abi.h"
#include "wire_fill.h"

#define ROUNDS 16u

static uint8_t arena_bytes[HARP_WIRE_ARENA_BYTES];

struct bytes {
    uint8_t *data;
    uint64_t size;
};

static int decode(struct harp_wire_call *call, const struct bytes *body, uint64_t arena_size)
{
    struct harp_wire_buffer in = {.data = body->data, .size = body->size};
    struct harp_wire_buffer arena = {.data = arena_bytes, .size = arena_size};
    return harp_wire_get_request(call, &wire_side, &in, &arena);
}

/* Encode again what was decoded: by the ids that came, not by new ones. */
static struct bytes encode(struct harp_wire_call *call, const struct harp_wire_side *side,
                           bool reply)
{
    static uint8_t room[HARP_WIRE_BODY_BYTES];
    struct harp_wire_buffer out = {.data = room, .size = sizeof room};
    int err =
        reply ? harp_wire_put_reply(call, side, &out) : harp_wire_put_request(call, side, &out);
    if (err != 0)
        fprintf(stderr, "%s: encodes to error %d\n", harp_wire_op(call->op)->name, err);
    CHECK(err == 0);
    struct bytes body = {malloc(out.used + 1), out.used};
    CHECK(body.data != NULL);
    memcpy(body.data, room, out.used);
    return body;
}

static bool same(const struct bytes *a, const struct bytes *b)
{
    return a->size == b->size && memcmp(a->data, b->data, a->size) == 0;
}

static void must_be_canonical(unsigned op, const struct bytes *body)
{
    struct harp_wire_call call = {.op = (uint16_t)op};
    const struct harp_wire_side again = {.transfer = wire_side.transfer, .apart = wire_side.apart};
    if (decode(&call, body, sizeof arena_bytes) != 0)
        return;
    struct bytes twice = encode(&call, &again, false);
    if (!same(body, &twice)) {
        fprintf(stderr, "%s: a body that is accepted encodes to another\n", harp_wire_op(op)->name);
        exit(1);
    }
    free(twice.data);
}

static void prefixes(unsigned op, const struct bytes *body)
{
    for (uint64_t size = 0; size < body->size; size++) {
        struct bytes part = {malloc(size + 1), size};
        CHECK(part.data != NULL);
        struct bytes exact = {malloc(size == 0 ? 1 : size), size};
        CHECK(exact.data != NULL);
        memcpy(exact.data, body->data, size);
        struct harp_wire_call call = {.op = (uint16_t)op};
        CHECK(decode(&call, &exact, sizeof arena_bytes) != 0);
        free(exact.data);
        free(part.data);
    }
}

static void changes(struct wire_fill *fill, unsigned op, const struct bytes *body)
{
    uint64_t limit = body->size < 2048 ? body->size : 2048;
    for (uint64_t i = 0; i < limit; i++) {
        uint8_t was = body->data[i];
        body->data[i] ^= (uint8_t)(1u << (i % 8));
        must_be_canonical(op, body);
        body->data[i] = was;
    }
    for (uint64_t i = 0; i + 4 <= limit; i += 4)
        for (int way = 0; way < 3; way++) {
            uint32_t was, now = way == 0 ? 0 : way == 1 ? UINT32_MAX : wire_random(fill);
            memcpy(&was, body->data + i, 4);
            memcpy(body->data + i, &now, 4);
            must_be_canonical(op, body);
            memcpy(body->data + i, &was, 4);
        }
}

static void room(struct harp_wire_call *call, const struct bytes *body)
{
    for (uint64_t size = 0; size <= body->size; size += body->size - size > 64 ? 16 : 1) {
        uint8_t *exact = malloc(size == 0 ? 1 : size);
        CHECK(exact != NULL);
        struct harp_wire_buffer out = {.data = exact, .size = size};
        int err = harp_wire_put_request(call, &wire_side, &out);
        CHECK(err == (size == body->size ? 0 : -E2BIG));
        free(exact);
    }
}

static void small_arena(unsigned op, const struct bytes *body)
{
    struct harp_wire_call call = {.op = (uint16_t)op};
    for (uint64_t size = 0; size < 4096; size += 8) {
        arena_bytes[size] = 0xa5;
        int err = decode(&call, body, size);
        CHECK(arena_bytes[size] == 0xa5);
        if (err == 0)
            return;
        CHECK(err == -E2BIG);
    }
}

static void replies(struct wire_fill *fill, struct harp_wire_call *client, const struct bytes *body)
{
    static uint8_t answers[HARP_WIRE_ARENA_BYTES];
    struct harp_wire_call worker = {.op = client->op};
    CHECK(decode(&worker, body, sizeof arena_bytes) == 0);
    CHECK(memcmp(worker.room, client->room, sizeof worker.room) == 0);
    for (int err = -ENOTSUP; err == -ENOTSUP;) { /* some answers may not be told */
        static uint8_t probe[HARP_WIRE_BODY_BYTES];
        struct harp_wire_buffer out = {.data = probe, .size = sizeof probe};
        wire_fill_reply(fill, &worker);
        err = harp_wire_put_reply(&worker, &wire_side, &out);
    }
    worker.result = harp_wire_op(client->op)->flags & HARP_WIRE_ALWAYS ? wire_random(fill) : 0;
    struct bytes sent = encode(&worker, &wire_side, true);
    for (uint64_t size = 0; size < sent.size; size++) {
        struct harp_wire_call copy = *client;
        struct harp_wire_buffer in = {.data = sent.data, .size = size};
        struct harp_wire_buffer arena = {.data = answers, .size = sizeof answers};
        CHECK(harp_wire_get_reply(&copy, &wire_side, &in, &arena) != 0);
    }
    struct harp_wire_buffer in = {.data = sent.data, .size = sent.size};
    struct harp_wire_buffer arena = {.data = answers, .size = sizeof answers};
    CHECK(harp_wire_get_reply(client, &wire_side, &in, &arena) == 0);
    CHECK(client->result == worker.result);
    /* The client's memory now says what the worker's did. */
    struct bytes twice = encode(client, &wire_side, true);
    CHECK(same(&sent, &twice));
    free(twice.data);
    for (uint64_t i = 0; i < sent.size && i < 512; i++) {
        struct harp_wire_call copy = *client;
        uint8_t was = sent.data[i];
        sent.data[i] ^= (uint8_t)(1u << wire_random(fill) % 8);
        in = (struct harp_wire_buffer){.data = sent.data, .size = sent.size};
        arena = (struct harp_wire_buffer){.data = answers, .size = sizeof answers};
        if (harp_wire_get_reply(&copy, &wire_side, &in, &arena) == 0) {
            twice = encode(&copy, &wire_side, true);
            CHECK(same(&sent, &twice));
            free(twice.data);
        }
        sent.data[i] = was;
    }
    free(sent.data);
}

static void battery(unsigned op, unsigned round)
{
    struct wire_fill fill = {.seed = op * 1000u + round};
    struct harp_wire_call call = {.op = (uint16_t)op};
    static uint8_t first[HARP_WIRE_BODY_BYTES];
    struct harp_wire_buffer out = {.data = first, .size = sizeof first};
    int err = -ENOTSUP;
    for (unsigned i = 0; i < 200 && err == -ENOTSUP; i++) {
        out.used = 0;
        wire_fill_request(&fill, &call);
        err = harp_wire_put_request(&call, &wire_side, &out);
    }
    if (err != 0)
        fprintf(stderr, "%s, round %u: %d\n", harp_wire_op(op)->name, round, err);
    CHECK(err == 0);
    struct bytes body = {malloc(out.used + 1), out.used};
    CHECK(body.data != NULL);
    memcpy(body.data, first, out.used);
    struct harp_wire_call decoded = {.op = (uint16_t)op};
    CHECK(decode(&decoded, &body, sizeof arena_bytes) == 0);
    must_be_canonical(op, &body);
    room(&call, &body);
    changes(&fill, op, &body);
    prefixes(op, &body);
    small_arena(op, &body);
    replies(&fill, &call, &body);
    free(body.data);
    wire_fill_free(&fill);
}

/* --- hooks, bounds, refusals --------------------------------------------------------------------
 */

static int no_handle(void *ctx, enum harp_handle kind, uint64_t id, uint64_t *value)
{
    *value = id;
    return kind == *(enum harp_handle *)ctx ? 0 : -ENOENT;
}

static int no_address(void *ctx, uint64_t address)
{
    return address >= *(uint64_t *)ctx ? 0 : -EFAULT;
}

static int get(struct harp_wire_call *call, const struct harp_wire_side *side, const void *data,
               uint64_t size)
{
    struct harp_wire_buffer in = {.data = (uint8_t *)(uintptr_t)data, .size = size};
    struct harp_wire_buffer arena = {.data = arena_bytes, .size = sizeof arena_bytes};
    return harp_wire_get_request(call, side, &in, &arena);
}

static void hooks(void)
{
    uint8_t data[64];
    struct harp_wire_buffer out = {.data = data, .size = sizeof data};
    struct harp_wire_call call = {.op = HARP_OP_cuMemsetD32Async, .args = {0x7000, 5, 3, 77}};
    CHECK(harp_wire_put_request(&call, NULL, &out) == 0);
    CHECK(out.used == 8 + 4 + 8 + 8);
    uint64_t floor = 0x7000;
    enum harp_handle kind = HARP_HANDLE_CUstream;
    struct harp_wire_side side = {.ctx = &floor, .device = no_address};
    CHECK(get(&call, &side, data, out.used) == 0 && call.args[0] == 0x7000 && call.args[3] == 77);
    floor++;
    CHECK(get(&call, &side, data, out.used) == -EFAULT);
    side = (struct harp_wire_side){.ctx = &kind, .value_of = no_handle};
    CHECK(get(&call, &side, data, out.used) == 0);
    kind = HARP_HANDLE_CUevent;
    CHECK(get(&call, &side, data, out.used) == -ENOENT);
    /* The streams that are everybody's are not asked for. */
    call = (struct harp_wire_call){.op = HARP_OP_cuMemsetD32Async, .args = {0, 5, 3, 2}};
    out.used = 0;
    CHECK(harp_wire_put_request(&call, &side, &out) == 0);
    CHECK(get(&call, &side, data, out.used) == 0 && call.args[3] == 2);
}

static void refusals(void)
{
    static uint8_t data[4096];
    struct harp_wire_buffer out = {.data = data, .size = sizeof data};
    struct harp_wire_call call = {.op = 0};
    CHECK(harp_wire_put_request(&call, NULL, &out) == -EINVAL);
    call.op = UINT16_MAX;
    CHECK(get(&call, NULL, data, 0) == -EINVAL);

    /* A copy node must not name host memory: it would be gone when the graph runs. */
    CUDA_MEMCPY3D copy = {.srcMemoryType = CU_MEMORYTYPE_HOST,
                          .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                          .srcHost = data,
                          .WidthInBytes = 4,
                          .Height = 1,
                          .Depth = 1};
    call = (struct harp_wire_call){.op = HARP_OP_cuGraphMemcpyNodeSetParams,
                                   .args = {5, (uintptr_t)&copy}};
    CHECK(harp_wire_put_request(&call, NULL, &out) == -ENOTSUP);
    call = (struct harp_wire_call){.op = HARP_OP_cuMemcpy3D_v2, .args = {(uintptr_t)&copy}};
    out.used = 0;
    CHECK(harp_wire_put_request(&call, NULL, &out) == 0);

    /* Nor may a worker believe that one does: the same body behind the id of a node. */
    uint64_t used = out.used;
    static uint8_t node[8 + sizeof data] = {5};
    memcpy(node + 8, data, used);
    call = (struct harp_wire_call){.op = HARP_OP_cuGraphMemcpyNodeSetParams};
    CHECK(get(&call, NULL, node, 8 + used) == -ENOTSUP);

    /* Rows further apart than the bytes that came: the driver would read on. */
    call = (struct harp_wire_call){.op = HARP_OP_cuMemcpy3D_v2};
    CHECK(get(&call, NULL, data, used) == 0);
    const CUDA_MEMCPY3D *decoded = (const void *)(uintptr_t)call.args[0];
    CHECK(memcmp(decoded->srcHost, copy.srcHost, 4) == 0);
    const CUDA_MEMCPY3D good = copy;
    size_t *const apart[] = {&copy.srcPitch, &copy.srcHeight, &copy.srcXInBytes, &copy.srcY,
                             &copy.srcZ};
    for (unsigned i = 0; i < sizeof apart / sizeof *apart; i++) {
        copy = good;
        *apart[i] = 1 << 20;
        call.args[0] = (uintptr_t)&copy;
        out.used = 0;
        CHECK(harp_wire_put_request(&call, NULL, &out) == -ENOTSUP);
    }
    copy = good;
    copy.WidthInBytes = copy.Height = (size_t)1 << 32; /* 2^64 bytes: not 0 */
    out.used = 0;
    CHECK(harp_wire_put_request(&call, NULL, &out) == -E2BIG);
    bool seen = false;
    for (uint64_t i = 0; i + 8 <= used; i += 4) { /* and the worker refuses it as well */
        uint64_t was, huge = 1 << 20;
        memcpy(&was, data + i, 8);
        memcpy(data + i, &huge, 8);
        seen |= get(&call, NULL, data, used) == -ENOTSUP;
        memcpy(data + i, &was, 8);
    }
    CHECK(seen);

    /* Options that name memory of the client; attributes of unknown size. */
    CUjit_option option = CU_JIT_GLOBAL_SYMBOL_ADDRESSES;
    void *value = data;
    uint64_t state = 0;
    call = (struct harp_wire_call){
        .op = HARP_OP_cuLinkCreate_v2,
        .args = {1, (uintptr_t)&option, (uintptr_t)&value, (uintptr_t)&state}};
    out.used = 0;
    CHECK(harp_wire_put_request(&call, NULL, &out) == -ENOTSUP);
    option = CU_JIT_INFO_LOG_BUFFER; /* the address stays here */
    out.used = 0;
    CHECK(harp_wire_put_request(&call, NULL, &out) == 0);
    CHECK(memmem(data, out.used, &value, sizeof value) == NULL);
    call = (struct harp_wire_call){.op = HARP_OP_cuMemPoolGetAttribute,
                                   .args = {5, 99, (uintptr_t)&value}};
    CHECK(harp_wire_put_request(&call, NULL, &out) == -ENOTSUP);
}

static void null_members(void)
{
    uint8_t data[256];
    CUmemAllocationProp prop = {.win32HandleMetaData = data};
    CUmemGenericAllocationHandle handle;
    struct harp_wire_buffer out = {.data = data, .size = sizeof data};
    struct harp_wire_call call = {.op = HARP_OP_cuMemCreate,
                                  .args = {(uintptr_t)&handle, 1, (uintptr_t)&prop}};
    CHECK(harp_wire_put_request(&call, NULL, &out) == -ENOTSUP);
    prop.win32HandleMetaData = NULL;
    CHECK(harp_wire_put_request(&call, NULL, &out) == 0);
}

static void bounds(void)
{
    static uint8_t data[256];
    struct harp_wire_buffer out = {.data = data, .size = sizeof data};
    CUgraphNode nodes[1];
    size_t room = (size_t)1 << 40;
    struct harp_wire_call call = {.op = HARP_OP_cuGraphGetNodes,
                                  .args = {5, (uintptr_t)nodes, (uintptr_t)&room}};
    CHECK(harp_wire_put_request(&call, NULL, &out) == -E2BIG);
    room = 3;
    out.used = 0;
    CHECK(harp_wire_put_request(&call, NULL, &out) == 0);
    /* graph 8, numNodes 4 + 8, nodes 4: a count that the array's does not match */
    uint64_t many = 1u << 18;
    memcpy(data + 12, &many, 8);
    CHECK(get(&call, NULL, data, out.used) == -EINVAL);
    uint32_t word = (1u << 18) + 1;
    memcpy(data + 20, &word, 4);
    CHECK(get(&call, NULL, data, out.used) == -E2BIG);
    /* The most that the arena must have room for: three outputs as large as a body. */
    room = HARP_WIRE_BODY_BYTES / sizeof *nodes;
    uintptr_t place = (uintptr_t)nodes;
    call = (struct harp_wire_call){.op = HARP_OP_cuGraphGetEdges_v2,
                                   .args = {5, place, place, place, (uintptr_t)&room}};
    out.used = 0;
    CHECK(harp_wire_put_request(&call, NULL, &out) == 0);
    CHECK(get(&call, NULL, data, out.used) == 0);
    /* Larger host bytes than a body takes, and nobody to transfer them. */
    call = (struct harp_wire_call){.op = HARP_OP_cuMemcpyHtoD_v2,
                                   .args = {1, (uintptr_t)data, HARP_WIRE_INLINE_BYTES + 1}};
    CHECK(harp_wire_put_request(&call, NULL, &out) == -E2BIG);
}

static void results(void)
{
    uint8_t data[64];
    uint64_t address = 42;
    struct harp_wire_buffer out = {.data = data, .size = sizeof data};
    struct harp_wire_call client = {.op = HARP_OP_cuMemAlloc_v2, .args = {(uintptr_t)&address, 64}};
    CHECK(harp_wire_put_request(&client, NULL, &out) == 0);
    struct harp_wire_call worker = {.op = client.op};
    CHECK(get(&worker, NULL, data, out.used) == 0);
    *(uint64_t *)(uintptr_t)worker.args[0] = 0x7000;
    worker.result = CUDA_ERROR_OUT_OF_MEMORY;
    out.used = 0;
    CHECK(harp_wire_put_reply(&worker, NULL, &out) == 0 && out.used == 4);
    struct harp_wire_buffer in = {.data = data, .size = out.used};
    struct harp_wire_buffer arena = {.data = arena_bytes, .size = sizeof arena_bytes};
    CHECK(harp_wire_get_reply(&client, NULL, &in, &arena) == 0);
    CHECK(client.result == CUDA_ERROR_OUT_OF_MEMORY && address == 42);
}

/* Made-up calls for the Python codec: `op request reply` in hex, one a line. */
static void print_hex(const struct bytes *body)
{
    putchar(' ');
    for (uint64_t i = 0; i < body->size; i++)
        printf("%02x", body->data[i]);
}

static void vector(unsigned op, uint64_t seed)
{
    struct wire_fill fill = {.seed = seed};
    struct harp_wire_call call = {.op = (uint16_t)op}, worker = call;
    static uint8_t first[HARP_WIRE_BODY_BYTES];
    struct harp_wire_buffer out = {.data = first, .size = sizeof first};
    do {
        out.used = 0;
        wire_fill_request(&fill, &call);
    } while (harp_wire_put_request(&call, &wire_side, &out) == -ENOTSUP);
    struct bytes body = {first, out.used};
    CHECK(decode(&worker, &body, sizeof arena_bytes) == 0);
    static uint8_t second[HARP_WIRE_BODY_BYTES];
    do {
        out = (struct harp_wire_buffer){.data = second, .size = sizeof second};
        wire_fill_reply(&fill, &worker);
    } while (harp_wire_put_reply(&worker, &wire_side, &out) == -ENOTSUP);
    struct bytes reply = {second, out.used};
    printf("%u", op);
    print_hex(&body);
    print_hex(&reply);
    putchar('\n');
    wire_fill_free(&fill);
}

/* Told to keep host bytes apart, a body has none of them, however few. */
static void apart(void)
{
    uint8_t host[8] = "\x5a\x5a\x5a\x5a\x5a\x5a\x5a\x5a", body[256];
    struct harp_wire_side side = {.transfer = wire_side.transfer, .apart = true};
    struct harp_wire_call call = {.op = HARP_OP_cuMemcpyHtoD_v2,
                                  .args = {1u << 20, (uintptr_t)host, sizeof host}};
    struct harp_wire_buffer out = {body, sizeof body, 0};
    CHECK(harp_wire_put_request(&call, &side, &out) == 0);
    CHECK(memmem(body, out.used, host, sizeof host) == NULL);
    side.apart = false;
    out.used = 0;
    CHECK(harp_wire_put_request(&call, &side, &out) == 0);
    CHECK(memmem(body, out.used, host, sizeof host) != NULL);
}

int main(int argc, char **argv)
{
    unsigned count = 0;
    for (unsigned op = 0; argc > 1 && op < HARP_OPS; op++)
        for (unsigned round = 0; harp_wire_op(op) != NULL && (int)round < atoi(argv[1]); round++)
            vector(op, op * 77u + round);
    if (argc > 1)
        return 0;
    for (unsigned op = 0; op < HARP_OPS; op++)
        for (unsigned round = 0; harp_wire_op(op) != NULL && round < ROUNDS; round++, count++)
            battery(op, round);
    wire_side.apart = true; /* bodies of traces */
    for (unsigned op = 0; op < HARP_OPS; op++)
        for (unsigned round = 0; harp_wire_op(op) != NULL && round < ROUNDS / 4; round++)
            battery(op, round);
    wire_side.apart = false;
    apart();
    hooks();
    refusals();
    null_members();
    bounds();
    results();
    printf("%u calls\n", count);
    return count < 380 * ROUNDS;
}

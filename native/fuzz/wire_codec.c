/* SPDX-License-Identifier: Apache-2.0
 *
 * The wire fed with arbitrary bytes, as a worker's frame, pack and request, and as a client's
 * reply: no access outside a buffer, no body that is accepted and encodes to other bytes, no device
 * address and no handle past the hooks.
 *
 * LLVMFuzzerTestOneInput for libFuzzer; with HARP_FUZZ_MAIN a main that draws bodies of made-up
 * calls from a seeded generator and damages them, for ctest.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/wire/codec.h"
#include "src/wire/frame.h"
#include "wire_fill.h"

static uint8_t arena_bytes[HARP_WIRE_ARENA_BYTES];
static struct {
    unsigned long long accepted, refused, replies;
} seen;

static void broken(unsigned op, const char *what)
{
    fprintf(stderr, "broken: %s: %s\n", harp_wire_op(op)->name, what);
    abort();
}

/* A session whose addresses are below 2^32 and whose handles are odd. */
static int device(void *ctx, uint64_t address)
{
    (void)ctx;
    return address >> 32 != 0 ? -EFAULT : 0;
}

static int value_of(void *ctx, enum harp_handle kind, uint64_t id, uint64_t *value)
{
    (void)ctx, (void)kind;
    *value = id;
    return id % 2 != 0 ? 0 : -ENOENT;
}

static int transfer(void *ctx, enum harp_wire_way way, uint64_t bytes, void **data, uint64_t *id)
{
    static uint8_t staged[4];
    (void)ctx, (void)way, (void)bytes;
    if (*data == NULL && *id != 4242)
        return -ENOENT;
    if (*data == NULL)
        *data = staged;
    *id = 4242;
    return 0;
}

static void request(unsigned op, const uint8_t *data, size_t size)
{
    static uint8_t again[HARP_WIRE_BODY_BYTES];
    const struct harp_wire_side side = {
        .device = device, .value_of = value_of, .transfer = transfer};
    struct harp_wire_call call = {.op = (uint16_t)op};
    struct harp_wire_buffer body = {.data = (uint8_t *)(uintptr_t)data, .size = size};
    struct harp_wire_buffer arena = {.data = arena_bytes, .size = sizeof arena_bytes};
    if (harp_wire_get_request(&call, &side, &body, &arena) != 0) {
        seen.refused++;
        return;
    }
    seen.accepted++;
    struct harp_wire_buffer out = {.data = again, .size = sizeof again};
    if (harp_wire_put_request(&call, &side, &out) != 0)
        broken(op, "is accepted and does not encode");
    if (out.used != size || memcmp(again, data, size) != 0)
        broken(op, "is accepted and encodes to other bytes");
}

static void reply(unsigned op, uint64_t seed, const uint8_t *data, size_t size)
{
    static uint8_t sent[HARP_WIRE_BODY_BYTES];
    struct wire_fill fill = {.seed = seed};
    struct harp_wire_call call = {.op = (uint16_t)op};
    struct harp_wire_buffer out = {.data = sent, .size = sizeof sent};
    wire_fill_request(&fill, &call);
    if (harp_wire_put_request(&call, &wire_side, &out) == 0) {
        struct harp_wire_buffer in = {.data = (uint8_t *)(uintptr_t)data, .size = size};
        struct harp_wire_buffer arena = {.data = arena_bytes, .size = sizeof arena_bytes};
        const struct harp_wire_side side = {.transfer = transfer};
        if (harp_wire_get_reply(&call, &side, &in, &arena) == 0)
            seen.replies++;
    }
    wire_fill_free(&fill);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct harp_frame frame, call;
    if (harp_frame_get(&frame, data, size) == 0 && frame.op == HARP_OP_PACK)
        for (size_t used = 0; harp_pack_get(&call, frame.body, frame.bytes, &used) == 1;)
            if (harp_wire_op(call.op) != NULL)
                request(call.op, call.body, call.bytes);
    if (size < 4)
        return 0;
    unsigned op = HARP_OP_FIRST + (data[0] | (unsigned)data[1] << 8) % (HARP_OPS - HARP_OP_FIRST);
    if (harp_wire_op(op) == NULL)
        return 0;
    if (data[2] % 4 == 0)
        reply(op, data[3], data + 4, size - 4);
    else
        request(op, data + 4, size - 4);
    return 0;
}

#ifdef HARP_FUZZ_MAIN
/* A made-up body behind the four bytes that choose what is done with it; its size. */
static size_t draw(struct wire_fill *fill, uint8_t *data, size_t size)
{
    unsigned op = HARP_OP_FIRST + wire_random(fill) % (HARP_OPS - HARP_OP_FIRST);
    struct wire_fill parts = {.seed = wire_random(fill)};
    struct harp_wire_call call = {.op = (uint16_t)op};
    struct harp_wire_buffer out = {.data = data + 4, .size = size - 4};
    const struct harp_wire_side side = {.transfer = transfer};
    data[0] = (uint8_t)(op - HARP_OP_FIRST);
    data[1] = (uint8_t)((op - HARP_OP_FIRST) >> 8);
    data[2] = (uint8_t)wire_random(fill);
    data[3] = (uint8_t)wire_random(fill);
    if (harp_wire_op(op) != NULL) {
        wire_fill_request(&parts, &call);
        if (harp_wire_put_request(&call, &side, &out) != 0)
            out.used = 0;
    }
    wire_fill_free(&parts);
    return out.used + 4;
}

int main(int argc, char **argv)
{
    struct wire_fill fill = {.seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 1};
    unsigned rounds = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 0) : 100000;
    static uint8_t data[256 << 10];
    printf("seed %llu, %u rounds\n", (unsigned long long)fill.seed, rounds);
    for (unsigned i = 0; i < rounds; i++) {
        size_t size = draw(&fill, data, sizeof data);
        /* Zeroes for handles and addresses, often enough to get past the hooks. */
        for (size_t b = 4; i % 2 == 0 && b + 4 <= size; b += 4)
            memset(data + b, 0, wire_random(&fill) % 2 * 4);
        for (unsigned n = wire_random(&fill) % 4; n > 0; n--)
            data[4 + wire_random(&fill) % (size - 4 + 1)] = (uint8_t)wire_random(&fill);
        if (wire_random(&fill) % 8 == 0)
            size = 4 + wire_random(&fill) % (size - 4 + 1);
        uint8_t *exact = malloc(size);
        if (exact == NULL)
            return 1;
        memcpy(exact, data, size);
        (void)LLVMFuzzerTestOneInput(exact, size);
        free(exact);
    }
    printf("requests: %llu accepted, %llu refused; replies accepted: %llu\n", seen.accepted,
           seen.refused, seen.replies);
    return seen.accepted == 0 || seen.refused == 0 || seen.replies == 0;
}
#endif

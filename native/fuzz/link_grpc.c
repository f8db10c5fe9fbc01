/* SPDX-License-Identifier: Apache-2.0
 *
 * gRPC's decoder fed with arbitrary bytes in arbitrary pieces: no access outside a buffer, nothing
 * beyond the limit, and the same messages however the bytes were cut. Metadata likewise.
 *
 * LLVMFuzzerTestOneInput for libFuzzer; with HARP_FUZZ_MAIN a main that makes streams of messages
 * from a seeded generator and damages them, for ctest.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/link/grpc.h"

#define LIMIT 600u

static unsigned long long messages, refused;

static void broken(const char *what)
{
    fprintf(stderr, "broken: %s\n", what);
    abort();
}

static uint64_t draw(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return *seed >> 33;
}

/* All messages behind one another in `out`, with their sizes; the last answer. */
static int read_all(const uint8_t *data, size_t size, uint64_t seed, uint8_t *out, size_t *used)
{
    uint8_t *memory = malloc(LIMIT);
    struct harp_grpc_reader reader = {.data = memory, .limit = LIMIT};
    int got = 0;
    *used = 0;
    while (size != 0 && got >= 0) {
        size_t piece = seed == 0 ? size : 1 + draw(&seed) % size;
        uint8_t *exact = malloc(piece);
        if (memory == NULL || exact == NULL)
            exit(1);
        memcpy(exact, data, piece);
        const uint8_t *at = exact, *message;
        size_t left = piece;
        uint32_t bytes;
        while ((got = harp_grpc_read(&reader, &at, &left, &message, &bytes)) == 1) {
            if (bytes > LIMIT)
                broken("a message beyond the limit");
            memcpy(out + *used, &bytes, sizeof bytes);
            memcpy(out + *used + sizeof bytes, message, bytes);
            *used += sizeof bytes + bytes;
            messages += seed == 0;
        }
        if (got == 0 && left != 0)
            broken("bytes that nobody took");
        if (got < 0 && got != -EBADMSG && got != -EMSGSIZE)
            broken("an answer that is not in the contract");
        free(exact);
        data += piece;
        size -= piece;
    }
    free(memory);
    return got;
}

/* Names of headers by a byte, values as they come. */
static void metadata(const uint8_t *data, size_t size)
{
    static const char *const names[] = {":method",       ":path",        "content-type", "te",
                                        "authorization", "harp-session", "harp-table",   ":status",
                                        "grpc-status",   "grpc-message", "harp-resume"};
    struct harp_grpc_call call = {.post = false};
    struct harp_grpc_answer answer = {.http = 0};
    struct harp_table_id own;
    char text[HARP_GRPC_TEXT_BYTES];
    harp_table_own(&own, "1");
    while (size >= 2) {
        const char *name = names[data[0] % (sizeof names / sizeof *names)];
        size_t n = data[1] < size - 2 ? data[1] : size - 2;
        const char *value = (const char *)data + 2;
        harp_grpc_header(&call, name, strlen(name), value, n);
        harp_grpc_answer_header(&answer, name, strlen(name), value, n);
        data += 2 + n;
        size -= 2 + n;
    }
    struct harp_resume resume;
    uint64_t taken;
    unsigned window_ms;
    if (harp_resume_get(&resume, call.resume) == 0 &&
        strlen(resume.key) != HARP_RESUME_KEY_BYTES - 1)
        broken("a key that is none");
    (void)harp_resume_answered(&taken, &window_ms, answer.resume);
    const struct harp_grpc_rule rule = {.token = "geheim", .own = &own};
    if (harp_grpc_check(&call, &rule, text) == HARP_GRPC_OK)
        broken("a call is accepted that never knew the token");
    if (strlen(text) == 0 || harp_grpc_outcome(&answer) >= (int)HARP_GRPC_STATUSES)
        broken("a refusal without a sentence, or a status that is none");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* Of each byte at most: a message of none with its size. */
    uint8_t *whole = malloc(size + 8), *cut = malloc(size + 8);
    size_t whole_bytes, cut_bytes;
    if (whole == NULL || cut == NULL)
        return 0;
    int one = read_all(data, size, 0, whole, &whole_bytes);
    int other = read_all(data, size, size + 1, cut, &cut_bytes);
    if (one != other || whole_bytes != cut_bytes || memcmp(whole, cut, whole_bytes) != 0)
        broken("other messages when the bytes are cut otherwise");
    refused += one < 0;
    metadata(data, size);
    free(whole);
    free(cut);
    return 0;
}

#ifdef HARP_FUZZ_MAIN
int main(int argc, char **argv)
{
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    unsigned rounds = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 0) : 100000;
    printf("seed %llu, %u rounds\n", (unsigned long long)seed, rounds);
    for (unsigned i = 0; i < rounds; i++) {
        uint8_t data[2048];
        size_t size = 0;
        for (size_t n; size + (n = draw(&seed) % 200) + 5 < sizeof data && draw(&seed) % 16 != 0;) {
            harp_grpc_prefix(data + size, (uint32_t)n);
            size += 5;
            for (; n > 0; n--)
                data[size++] = (uint8_t)draw(&seed);
        }
        for (uint64_t n = draw(&seed) % 3; n > 0 && size > 0; n--)
            data[draw(&seed) % size] = (uint8_t)draw(&seed);
        uint8_t *exact = malloc(size + 1);
        if (exact == NULL)
            return 1;
        memcpy(exact, data, size);
        (void)LLVMFuzzerTestOneInput(exact, size);
        free(exact);
    }
    printf("messages: %llu, streams refused: %llu\n", messages, refused);
    return messages == 0 || refused == 0;
}
#endif

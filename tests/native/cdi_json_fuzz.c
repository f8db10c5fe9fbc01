/* SPDX-License-Identifier: Apache-2.0
 *
 * The hook's JSON reader: what it must find, what it must not, and damaged text under the
 * sanitizers. HARP_TEST_SEED, HARP_FUZZ_S set the seed and the seconds.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "src/cdi/json.h"

static const char *const path[] = {"root", "path"};
static uint64_t state;

static uint32_t draw(uint32_t below)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % below;
}

/* Exactly as many bytes as there are, so that one too far is seen. */
static bool find(const char *json, size_t bytes, char *out, size_t room)
{
    char *copy = malloc(bytes ? bytes : 1);
    memcpy(copy, json, bytes);
    bool found = json_text(copy, bytes, path, 2, out, room);
    free(copy);
    return found;
}

static const char good[] = " {\"a\": [1, -2.5e+3, true, {\"root\": {\"path\": \"no\"}}, [], {}], "
                           "\"rootx\": \"{\\\"root\\\"\",\n"
                           "\"root\": {\"readonly\": false, \"n\\u00fc\": null, \"path\" : "
                           "\"/a\\n\\u00e9\\ud83d\\ude00\\\\\"}, "
                           "\"rest\": 1}";

int main(void)
{
    static const struct {
        const char *json, *text; /* NULL: not there */
    } cases[] = {
        {good, "/a\n\xc3\xa9\xf0\x9f\x98\x80\\"},
        {"{\"root\":{\"path\":\"\"}}", ""},
        {"{\"root\":{\"path\":\"12345678901\"}}", "12345678901"},
        {"{\"root\":{\"path\":\"123456789012\"}}", NULL}, /* no room */
        {"{\"root\":{\"path\":\"\\u0000\"}}", NULL},
        {"{\"root\":{\"path\":\"\\ud83d\"}}", NULL},
        {"{\"root\":{\"path\":\"a\nb\"}}", NULL},
        {"{\"root\":{\"path\":7}}", NULL},
        {"{\"root\":\"path\"}", NULL},
        {"{\"root\":{\"path\":\"a}}", NULL},
        {"{\"x\":{\"root\":{\"path\":\"a\"}}}", NULL},
        {"[{\"root\":{\"path\":\"a\"}}]", NULL},
        {"{\"x\" 1, \"root\":{\"path\":\"a\"}}", NULL},
        {"", NULL},
    };
    char out[12], deep[600];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bool found = find(cases[i].json, strlen(cases[i].json), out, sizeof out);
        if (found != (cases[i].text != NULL) || (found && strcmp(out, cases[i].text) != 0)) {
            printf("%s: %s\n", cases[i].json, found ? out : "not found");
            return 1;
        }
    }
    memset(deep, '[', sizeof deep);
    memcpy(deep, "{\"x\":", 5);
    if (find(deep, sizeof deep, out, sizeof out))
        return 1;
    const char *seed = getenv("HARP_TEST_SEED"), *seconds = getenv("HARP_FUZZ_S");
    time_t until = time(NULL) + (seconds ? atoi(seconds) : 2);
    int found = 0, tried = 0;
    state = seed ? strtoull(seed, NULL, 10) : 20261127;
    printf("HARP_TEST_SEED=%" PRIu64 "\n", state);
    while (time(NULL) < until)
        for (int k = 0; k < 1000; k++, tried++) {
            char text[sizeof good];
            size_t n = draw(4) ? sizeof good - 1 : draw(sizeof good);
            memcpy(text, good, sizeof good);
            for (uint32_t i = draw(4); i; i--)
                text[draw(sizeof good)] = draw(2) ? "\"\\{}[]:,u0 "[draw(11)] : (char)draw(256);
            if (find(text, n, out, sizeof out) && ++found && strlen(out) >= sizeof out)
                return 1;
        }
    printf("%d of %d found\n", found, tried);
    return found && found < tried ? 0 : 1;
}

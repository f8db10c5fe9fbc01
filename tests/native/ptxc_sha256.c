/* SPDX-License-Identifier: Apache-2.0
 *
 * SHA-256 against the vectors of FIPS 180-4 and against itself in pieces.
 */
#include <stdio.h>
#include <string.h>

#include "soft/ptxc/sha256.h"

static int failed;

static void expect(const char *what, struct sha256 *sha, const char *want)
{
    char got[65];
    sha256_hex(sha, got);
    if (strcmp(got, want) != 0) {
        printf("%s: %s, expected %s\n", what, got, want);
        failed = 1;
    }
}

int main(void)
{
    static const struct {
        const char *text, *hex;
    } vectors[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    };
    static char million[1000000];
    struct sha256 sha;
    for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
        sha256_init(&sha);
        sha256_add(&sha, vectors[i].text, strlen(vectors[i].text));
        expect(vectors[i].text, &sha, vectors[i].hex);
    }
    memset(million, 'a', sizeof(million));
    /* Every way to cut it at a block's edge. */
    for (size_t step = 1; step < 200; step += 13) {
        sha256_init(&sha);
        for (size_t at = 0; at < sizeof(million); at += step)
            sha256_add(&sha, million + at,
                       sizeof(million) - at < step ? sizeof(million) - at : step);
        expect("a million a", &sha,
               "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    }
    return failed;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * CUDA_VISIBLE_DEVICES as the driver reads it, as a table; and once through cuInit.
 */
#include "soft_test.h"

static const uint8_t uuids[4][16] = {
    {0xaa, 0xbb, 0xcc, 0x01}, {0xaa, 0xbb, 0xdd, 0x02}, {0x11, 0x22}, {0x33}};

static const struct {
    const char *description, *text, *want;
} rows[] = {
    {"unset: all", NULL, "0123"},
    {"empty: none", "", ""},
    {"one", "2", "2"},
    {"order is the client's", "3,1,0", "310"},
    {"spaces", " 1 , 2", "12"},
    {"ends at the first that is none", "0,7,1", "0"},
    {"-1 hides what follows", "1,-1,0", "1"},
    {"-1 alone hides all", "-1", ""},
    {"no number", "none", ""},
    {"number with a tail", "1x", ""},
    {"twice the same ends it", "0,0,1", "0"},
    {"uuid", "GPU-33000000-0000-0000-0000-000000000000", "3"},
    {"beginning of a uuid", "GPU-11", "2"},
    {"case does not matter", "gpu-AABBCC", "0"},
    {"beginning that fits two", "GPU-aabb", ""},
    {"uuid, then index", "GPU-aabbdd,0", "10"},
    {"unknown uuid ends it", "1,GPU-77,0", "1"},
    {"too long a uuid", "GPU-33000000-0000-0000-0000-0000000000001", ""},
    {"empty entry ends it", "1,,0", "1"},
    {"huge index", "99999999999999999999", ""},
};

static void table(void *arg)
{
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int found[4];
        int n = soft_visible_parse(rows[i].text, uuids, 4, found);
        char got[8] = "";

        for (int k = 0; k < n; k++)
            got[k] = (char)('0' + found[k]);
        if (strcmp(got, rows[i].want) != 0) {
            fprintf(stderr, "%s: got '%s', should be '%s'\n", rows[i].description, got,
                    rows[i].want);
            _exit(1);
        }
    }
}

static void through_init(void *arg)
{
    int n;
    char name[64];
    CUuuid uuid;
    uint8_t raw[16];
    CUdevice dev;

    setenv("CUDA_VISIBLE_DEVICES", "2,0", 1);
    OK(cuInit(0));
    OK(cuDeviceGetCount(&n));
    CHECK_IS(2, n);
    OK(cuDeviceGet(&dev, 0));
    OK(cuDeviceGetName(name, sizeof name, dev));
    CHECK(strstr(name, "T4") != NULL && strncmp(name, "HARP Software GPU", 17) == 0);
    OK(cuDeviceGetUuid_v2(&uuid, dev));
    soft_state_uuid(soft_the_state, 2, raw);
    CHECK(memcmp(&uuid, raw, 16) == 0);
    OK(cuDeviceGetName(name, sizeof name, 1));
    CHECK(strstr(name, "tiny") != NULL);
    CHECK_IS(CUDA_ERROR_INVALID_DEVICE, cuDeviceGet(&dev, 2));
}

static void none_left(void *arg)
{
    setenv("CUDA_VISIBLE_DEVICES", "", 1);
    CHECK_IS(CUDA_ERROR_NO_DEVICE, cuInit(0));
}

int main(void)
{
    test_run("table", "tiny", "0", table);
    test_run("through cuInit", "tiny,a100-40g,t4-16g", "0", through_init);
    test_run("none left", "tiny", "0", none_left);
    return 0;
}

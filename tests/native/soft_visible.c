/* SPDX-License-Identifier: Apache-2.0
 *
 * CUDA_VISIBLE_DEVICES as the driver reads it, as a table; and once through cuInit.
 */
#include "soft_test.h"

#define WHOLE(board, ...) {{__VA_ARGS__}, {__VA_ARGS__}, board, SOFT_NO_INSTANCE}
static const struct soft_visible whole[] = {WHOLE(0, 0xaa, 0xbb, 0xcc, 0x01),
                                            WHOLE(1, 0xaa, 0xbb, 0xdd, 0x02), WHOLE(2, 0x11, 0x22),
                                            WHOLE(3, 0x33)};
/* 0: whole; 1, 2: instances of the second board; 3: whole; 4, 5: instances of the last */
static const struct soft_visible split[] = {
    WHOLE(0, 0xaa), {{0xb1}, {0xbb}, 1, 1},       {{0xb2}, {0xbb}, 1, 2},
    WHOLE(2, 0xcc), {{0xd1, 0x11}, {0xdd}, 3, 1}, {{0xd1, 0x22}, {0xdd}, 3, 2},
};

struct row {
    const char *description, *text, *want;
};

static const struct row rows[] = {
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
    {"no instance there", "MIG-aabbcc01", ""},
};

static const struct row mig_rows[] = {
    {"unset: the first instance, and nothing beside it", NULL, "1"},
    {"a whole board is no instance", "0", "0"},
    {"whole boards only", "2,0", "30"},
    {"board: its first instance", "1", "1"},
    {"instance", "MIG-b2", "2"},
    {"case does not matter", "mig-B2", "2"},
    {"only one of two instances", "MIG-b2,MIG-b1", "2"},
    {"an instance hides whole boards", "0,MIG-d122", "5"},
    {"uuid of the board", "GPU-dd", "4"},
    {"uuid of an instance is none of a board", "GPU-b1", ""},
    {"beginning that fits two", "MIG-d1", ""},
    {"older name", "MIG-GPU-bb000000-0000-0000-0000-000000000000/2/0", "2"},
    {"older name, no such instance", "MIG-GPU-bb000000-0000-0000-0000-000000000000/3/0", ""},
    {"older name, no such compute instance", "MIG-GPU-bb000000-0000-0000-0000-000000000000/2/1",
     ""},
    {"no instance", "MIG-", ""},
};

static void check_rows(const struct row *table, size_t count, const struct soft_visible *devices,
                       int device_count)
{
    for (size_t i = 0; i < count; i++) {
        int found[8];
        int n = soft_visible_parse(table[i].text, devices, device_count, found);
        char got[8] = "";

        for (int k = 0; k < n; k++)
            got[k] = (char)('0' + found[k]);
        if (strcmp(got, table[i].want) != 0) {
            fprintf(stderr, "%s: got '%s', should be '%s'\n", table[i].description, got,
                    table[i].want);
            _exit(1);
        }
    }
}

static void table_of_boards(void *arg)
{
    check_rows(rows, sizeof rows / sizeof rows[0], whole, 4);
}

static void table_of_instances(void *arg)
{
    check_rows(mig_rows, sizeof mig_rows / sizeof mig_rows[0], split, 6);
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
    test_run("boards", "tiny", "0", table_of_boards);
    test_run("instances", "tiny", "0", table_of_instances);
    test_run("through cuInit", "tiny,a100-40g,t4-16g", "0", through_init);
    test_run("none left", "tiny", "0", none_left);
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Pages that freed device memory leaves behind: they serve the next piece of that size, empty, and
 * no process has more for it than it had before, nor all processes together more than is allowed.
 */
#include <sys/stat.h>

#include "soft/gpu/shared.h"
#include "soft_vmm_test.h"

#define PIECE 4u /* granules */

static CUdeviceptr range; /* of 64 granules, in each test's process */
static struct soft_phys *probe;

static void begin(void)
{
    context();
    OK(cuMemAddressReserve(&range, 64 * GRANULE, 0, 0, 0));
    probe = soft_phys_make(0, GRANULE, SOFT_PHYS_PRIVATE); /* in the file that all lie in */
    CHECK(probe != NULL);
}

/* Pages that the process has of the host, in granules. */
static uint64_t granules_there(void)
{
    struct stat st;

    CHECK(fstat(probe->file.fd, &st) == 0);
    return (uint64_t)st.st_blocks * 512 / GRANULE;
}

static CUmemGenericAllocationHandle mapped(unsigned at, unsigned granules)
{
    CUmemGenericAllocationHandle h = make(granules * GRANULE, CU_MEM_HANDLE_TYPE_NONE);

    OK(cuMemMap(range + at * GRANULE, granules * GRANULE, 0, h, 0));
    give_access(range + at * GRANULE, granules * GRANULE, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    return h;
}

static void fill(unsigned at, unsigned granules, unsigned char byte)
{
    OK(cuMemsetD8_v2(range + at * GRANULE, byte, granules * GRANULE));
    OK(cuCtxSynchronize());
}

static void drop(unsigned at, unsigned granules, CUmemGenericAllocationHandle h)
{
    OK(cuMemUnmap(range + at * GRANULE, granules * GRANULE));
    OK(cuMemRelease(h));
}

static unsigned char *read_back(unsigned at, unsigned granules)
{
    unsigned char *got = malloc(granules * GRANULE);

    CHECK(got != NULL);
    OK(cuMemcpyDtoH_v2(got, range + at * GRANULE, granules * GRANULE));
    return got;
}

static void check_bytes(unsigned at, unsigned granules, unsigned char byte)
{
    unsigned char *got = read_back(at, granules);

    for (size_t i = 0; i < granules * GRANULE; i++)
        CHECK_IS(byte, got[i]);
    free(got);
}

static void kept_and_empty(void *arg)
{
    CUmemGenericAllocationHandle h;

    begin();
    for (unsigned i = 0; i < 5; i++) {
        unsigned at = i % 3 * 8; /* also where it was not */

        h = mapped(at, PIECE);
        check_bytes(at, PIECE, 0);
        fill(at, PIECE, (unsigned char)(i + 1));
        check_bytes(at, PIECE, (unsigned char)(i + 1));
        CHECK_IS(PIECE, granules_there());
        drop(at, PIECE, h);
        CHECK_IS(PIECE, granules_there());
        CHECK_IS(CONTEXT + GRANULE, used_with_context()); /* the device has it back */
    }
}

/* Through a second mapping, of a part, bytes are written that the first never touched. */
static void written_elsewhere(void *arg)
{
    CUmemGenericAllocationHandle h;

    begin();
    h = mapped(0, PIECE);
    OK(cuMemMap(range + 32 * GRANULE, 2 * GRANULE, 0, h, 0));
    give_access(range + 32 * GRANULE, 2 * GRANULE, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    OK(cuMemUnmap(range, PIECE * GRANULE));
    fill(32, 2, 0x5a);
    drop(32, 2, h);
    h = mapped(8, PIECE);
    check_bytes(8, PIECE, 0);
    drop(8, PIECE, h);
}

/* What was never written to takes no page, before and after. */
static void holes_stay(void *arg)
{
    CUmemGenericAllocationHandle h;
    unsigned char *got;

    begin();
    for (unsigned i = 0; i < 3; i++) {
        h = mapped(0, 16);
        OK(cuMemsetD8_v2(range + 7 * GRANULE + i * 4096, 9, 1));
        OK(cuCtxSynchronize());
        drop(0, 16, h);
        CHECK_IS(0, granules_there());
    }
    h = mapped(0, 16);
    got = read_back(7, 1);
    for (size_t i = 0; i < GRANULE; i++)
        CHECK_IS(0, got[i]);
    free(got);
}

static void another_size_takes_it(void *arg)
{
    CUmemGenericAllocationHandle small, large;

    begin();
    small = mapped(0, PIECE);
    fill(0, PIECE, 1);
    drop(0, PIECE, small);
    CHECK_IS(PIECE, granules_there());
    large = mapped(0, 2 * PIECE);
    CHECK_IS(0, granules_there());
    fill(0, 2 * PIECE, 1);
    CHECK_IS(2 * PIECE, granules_there());
    drop(0, 2 * PIECE, large);
    small = mapped(0, PIECE);
    fill(0, PIECE, 1);
    CHECK_IS(PIECE, granules_there());
    drop(0, PIECE, small);
}

/* A piece that several have a hold of ends with the last. */
static void not_before_the_end(void *arg)
{
    CUmemGenericAllocationHandle h, other;

    begin();
    h = mapped(0, PIECE);
    fill(0, PIECE, 7);
    OK(cuMemUnmap(range, PIECE * GRANULE));
    other = mapped(8, PIECE);
    fill(8, PIECE, 8);
    OK(cuMemMap(range + 16 * GRANULE, PIECE * GRANULE, 0, h, 0));
    give_access(range + 16 * GRANULE, PIECE * GRANULE, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    check_bytes(16, PIECE, 7);
    check_bytes(8, PIECE, 8);
    CHECK_IS(2 * PIECE, granules_there());
    drop(16, PIECE, h);
    drop(8, PIECE, other);
}

/* ------------------------------------------------------------------------------- how much ---- */
static void keeps_nothing(void *arg)
{
    CUmemGenericAllocationHandle h;

    setenv("HARP_SOFT_KEEP_MIB", "0", 1);
    begin();
    h = mapped(0, PIECE);
    fill(0, PIECE, 1);
    drop(0, PIECE, h);
    CHECK_IS(0, granules_there());
    h = mapped(0, PIECE);
    check_bytes(0, PIECE, 0);
    drop(0, PIECE, h);
}

static void keeps_then_waits(void *arg)
{
    const int *pipes = arg;
    CUmemGenericAllocationHandle h;

    begin();
    h = mapped(0, PIECE);
    fill(0, PIECE, 1);
    drop(0, PIECE, h);
    CHECK_IS(PIECE, granules_there());
    CHECK(write(pipes[1], "k", 1) == 1);
    pause();
}

/* Room for one piece and a half: what another process keeps counts, until it is dead. */
static void together(void *arg)
{
    CUmemGenericAllocationHandle h;
    int pipes[2];
    pid_t other;
    char byte;

    setenv("HARP_SOFT_KEEP_MIB", "12", 1);
    CHECK(pipe(pipes) == 0);
    other = child(keeps_then_waits, pipes);
    CHECK(read(pipes[0], &byte, 1) == 1);
    begin();
    h = mapped(0, PIECE);
    fill(0, PIECE, 1);
    drop(0, PIECE, h);
    CHECK_IS(0, granules_there());
    h = mapped(0, 2); /* for this there is room */
    fill(0, 2, 1);
    drop(0, 2, h);
    CHECK_IS(2, granules_there());
    CHECK(kill(other, SIGKILL) == 0 && waitpid(other, NULL, 0) == other);
    h = mapped(0, PIECE);
    fill(0, PIECE, 1);
    drop(0, PIECE, h);
    CHECK_IS(PIECE, granules_there());
}

/* ------------------------------------------------------------------------ many, that die ---- */
#define MANY   12u
#define HELD   6u
#define ROUNDS 6

/* Makes and drops at random until it is killed; what is new must be empty, what is held its own. */
static void churns(void *arg)
{
    unsigned seed = *(unsigned *)arg, size[HELD] = {0}, pick;
    CUmemGenericAllocationHandle h[HELD];
    unsigned char *got;

    begin();
    for (;;) {
        unsigned i = below(&seed, HELD), at = i * 8;

        if (size[i] != 0) {
            pick = below(&seed, size[i]);
            got = read_back(at + pick, 1);
            for (size_t b = 0; b < GRANULE; b += 512)
                CHECK_IS(i + 1, got[b]);
            free(got);
            drop(at, size[i], h[i]);
            size[i] = 0;
            continue;
        }
        size[i] = 1 + below(&seed, 3);
        h[i] = mapped(at, size[i]);
        pick = below(&seed, size[i]);
        got = read_back(at + pick, 1);
        for (size_t b = 0; b < GRANULE; b += 512)
            CHECK_IS(0, got[b]);
        free(got);
        fill(at, size[i], (unsigned char)(i + 1));
    }
}

static void killed(void *arg)
{
    struct soft_state *state;
    char why[256];
    pid_t pids[MANY];
    unsigned seed = 5, seeds[MANY];
    int status;

    setenv("HARP_SOFT_KEEP_MIB", "64", 1);
    for (unsigned i = 0; i < MANY; i++) {
        seeds[i] = i + 1;
        pids[i] = child(churns, &seeds[i]);
    }
    for (unsigned n = 0; n < ROUNDS * MANY; n++) {
        unsigned i = n % MANY;

        sleep_ns((1 + below(&seed, 20)) * MS);
        CHECK(kill(pids[i], SIGKILL) == 0 && waitpid(pids[i], &status, 0) == pids[i]);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL); /* no check of its failed */
        if (n < (ROUNDS - 1) * MANY) {
            seeds[i] = n + 100;
            pids[i] = child(churns, &seeds[i]);
        }
    }
    state = soft_state_open(why, sizeof why);
    CHECK(state != NULL);
    CHECK_IS(0, soft_state_used_bytes(state, 0));
    CHECK_IS(0, soft_slot_take(state)); /* nobody else is left */
    CHECK(!soft_slot_keeps(state, 65 * MIB, 64 * MIB));
    CHECK(soft_slot_keeps(state, 64 * MIB, 64 * MIB));
}

int main(void)
{
    test_run("kept, and empty", "tiny", "0", kept_and_empty);
    test_run("written elsewhere", "tiny", "0", written_elsewhere);
    test_run("holes stay", "tiny", "0", holes_stay);
    test_run("another size takes it", "tiny", "0", another_size_takes_it);
    test_run("not before the end", "tiny", "0", not_before_the_end);
    test_run("keeps nothing", "tiny", "0", keeps_nothing);
    test_run("together", "tiny", "0", together);
    test_run("killed", "tiny", "0", killed);
    return 0;
}

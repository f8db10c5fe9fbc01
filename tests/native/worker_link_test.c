/* SPDX-License-Identifier: Apache-2.0
 *
 * A worker's links: what a driver is given to write logs to, and two lanes at one link.
 */
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "src/worker/handles.h"
#include "src/worker/worker.h"

#define STATE 0x5000u

static struct lane first, second;
static pthread_t thread;
static atomic_bool ended;
static bool end_meanwhile;

static void *end_link(void *arg)
{
    const uint64_t args[HARP_WIRE_SLOTS] = {STATE};
    (void)arg;
    link_before(&second, HARP_OP_cuLinkDestroy, args);
    link_after(&second, HARP_OP_cuLinkDestroy, CUDA_SUCCESS, args);
    atomic_store(&ended, true);
    return NULL;
}

/* What is told of a link takes as long as its client likes: so another lane may end it meanwhile.
 */
void call_tell(struct session *s, unsigned op, unsigned lane, const uint64_t *args)
{
    (void)s;
    (void)op;
    (void)lane;
    (void)args;
    if (!end_meanwhile)
        return;
    end_meanwhile = false;
    CHECK(pthread_create(&thread, NULL, end_link, NULL) == 0);
    for (unsigned ms = 0; ms < 200 && !atomic_load(&ended); ms++)
        usleep(1000);
}

static void *make(unsigned count, unsigned *options, uint64_t *values, uint64_t **given)
{
    uint64_t state = 0;
    uint64_t carried[HARP_WIRE_SLOTS] = {count, (uintptr_t)options, (uintptr_t)values,
                                         (uintptr_t)&state};
    uint64_t args[HARP_WIRE_SLOTS];
    memcpy(args, carried, sizeof args);
    CHECK(link_prepare(&first, args) == CUDA_SUCCESS);
    *given = (uint64_t *)(uintptr_t)args[2];
    state = STATE;
    link_after(&first, HARP_OP_cuLinkCreate_v2, CUDA_SUCCESS, carried);
    return (void *)(uintptr_t)(*given)[1];
}

/* A driver may take the first, or the last. */
static void test_a_size_said_twice_is_no_smaller_buffer(void)
{
    unsigned options[] = {CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES, CU_JIT_INFO_LOG_BUFFER,
                          CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES};
    const uint64_t sizes[][2] = {{1u << 20, 16}, {16, 1u << 20}, {1u << 20, 0}};
    for (unsigned i = 0; i < 3; i++) {
        uint64_t values[] = {sizes[i][0], 0x1234, sizes[i][1]}, *given;
        char *log = make(3, options, values, &given);
        CHECK((uintptr_t)log != 0x1234);
        memset(log, 'x', given[0] > given[2] ? given[0] : given[2]);
        end_link(NULL);
    }
}

static void test_a_link_that_another_lane_ends_is_there_while_it_is_told_of(void)
{
    unsigned options[] = {CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES, CU_JIT_INFO_LOG_BUFFER};
    uint64_t values[] = {64, 0}, *given;
    const uint64_t carried[HARP_WIRE_SLOTS] = {STATE};
    CHECK(handles_bind(HARP_HANDLE_CUlinkState, 3, STATE) == 0);
    strcpy(make(2, options, values, &given), "linked");
    atomic_store(&ended, false);
    end_meanwhile = true;
    link_after(&first, HARP_OP_cuLinkComplete, CUDA_SUCCESS, carried);
    CHECK(pthread_join(thread, NULL) == 0 && atomic_load(&ended));
    link_after(&first, HARP_OP_cuLinkComplete, CUDA_SUCCESS, carried); /* of none */
}

int main(void)
{
    test_a_size_said_twice_is_no_smaller_buffer();
    test_a_link_that_another_lane_ends_is_there_while_it_is_told_of();
    return 0;
}

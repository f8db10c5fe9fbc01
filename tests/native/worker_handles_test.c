/* SPDX-License-Identifier: Apache-2.0
 *
 * A worker's tables: ids and handles, and the calls that hold them.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "check.h"
#include "src/worker/handles.h"

#define STREAM HARP_HANDLE_CUstream
#define EVENT  HARP_HANDLE_CUevent

static void test_an_id_stands_for_one_handle_of_its_kind(void)
{
    uint64_t value = 0;
    CHECK(handles_free(3) == 0 && handles_free(0) == -EEXIST && handles_free(2) == -EEXIST);
    CHECK(handles_free(HARP_WORKER_ID) == -EEXIST && handles_free(HARP_WORKER_ID - 1) == 0);
    CHECK(handles_bind(STREAM, 3, 0x1000) == 0);
    CHECK(handles_free(3) == -EEXIST && handles_bind(EVENT, 3, 0x2000) == -EEXIST);
    CHECK(handles_value(STREAM, 3, &value) == 0 && value == 0x1000);
    CHECK(handles_value(EVENT, 3, &value) == -ENOENT);
    CHECK(handles_value(STREAM, 4, &value) == -ENOENT);
    CHECK(handles_bind(EVENT, 4, 0x1000) == 0); /* the same number, another kind */
    handles_drop(handles_take(STREAM, 0x1000));
    CHECK(handles_value(STREAM, 3, &value) == -ENOENT);
    CHECK(handles_value(EVENT, 4, &value) == 0 && value == 0x1000);
    handles_drop(handles_take(EVENT, 0x1000));
}

static void test_a_kernel_is_taken_for_a_function_and_not_the_other_way(void)
{
    uint64_t value;
    CHECK(handles_bind(HARP_HANDLE_CUkernel, 10, 0x77) == 0);
    CHECK(handles_value(HARP_HANDLE_CUfunction, 10, &value) == 0 && value == 0x77);
    CHECK(handles_bind(HARP_HANDLE_CUfunction, 11, 0x78) == 0);
    CHECK(handles_value(HARP_HANDLE_CUkernel, 11, &value) == -ENOENT);
}

static void test_what_a_driver_answers_has_one_id(void)
{
    uint64_t first, again, value;
    CHECK(handles_id(EVENT, 0x5000, &first) == 0 && first >= HARP_WORKER_ID);
    CHECK(handles_id(EVENT, 0x5000, &again) == 0 && again == first);
    CHECK(handles_value(EVENT, first, &value) == 0 && value == 0x5000);
    CHECK(handles_id(STREAM, 0x5000, &again) == 0 && again != first);
    handles_drop(handles_take(EVENT, 0x5000));
    CHECK(handles_id(EVENT, 0x5000, &again) == 0 && again != first); /* another one by then */
    CHECK(handles_bind(HARP_HANDLE_CUfunction, 20, 0x6000) == 0);
    CHECK(handles_bind(HARP_HANDLE_CUfunction, 21, 0x6000) == 0); /* asked for twice */
    CHECK(handles_value(HARP_HANDLE_CUfunction, 20, &value) == 0 && value == 0x6000);
    CHECK(handles_id(HARP_HANDLE_CUfunction, 0x6000, &again) == 0 && again == 21);
    handles_drop(handles_take(HARP_HANDLE_CUfunction, 0x6000));
    CHECK(handles_value(HARP_HANDLE_CUfunction, 20, &value) == -ENOENT);
    CHECK(handles_value(HARP_HANDLE_CUfunction, 21, &value) == -ENOENT);
}

static void test_a_handle_that_a_call_ends_is_none_until_it_fails(void)
{
    uint64_t value, last;
    CHECK(handles_bind(EVENT, 30, 0x7000) == 0 && handles_bind(EVENT, 31, 0x7000) == 0);
    struct node *taken = handles_take(EVENT, 0x7000);
    CHECK(handles_value(EVENT, 30, &value) == -ENOENT && handles_take(EVENT, 0x7000) == NULL);
    /* another lane has been given the same: its id is not the one that ends */
    CHECK(handles_bind(EVENT, 32, 0x7000) == 0);
    handles_drop(taken);
    CHECK(handles_value(EVENT, 32, &value) == 0 && value == 0x7000);
    CHECK(handles_value(EVENT, 31, &value) == -ENOENT);
    CHECK(handles_bind(EVENT, 33, 0x7000) == 0);
    handles_put_back(handles_take(EVENT, 0x7000));
    CHECK(handles_value(EVENT, 32, &value) == 0 && handles_value(EVENT, 33, &value) == 0);
    CHECK(handles_id(EVENT, 0x7000, &last) == 0 && last == 33);
    handles_drop(handles_take(EVENT, 0x7000));
}

static void test_what_ends_with_a_handle_ends_with_that(void)
{
    const struct owner library = {.kind = HARP_HANDLE_CUlibrary, .value = 0xa100};
    const struct owner module = {.kind = HARP_HANDLE_CUmodule, .value = 0xa200};
    /* The same number, another kind. */
    const struct owner graph = {.kind = HARP_HANDLE_CUgraph, .value = 0xa100};
    uint64_t value, id;
    struct owner o;
    unsigned count = 0;
    CHECK(handles_bind_in(module, HARP_HANDLE_CUfunction, 40, 0xa300) == -ENOENT);
    CHECK(handles_bind(HARP_HANDLE_CUlibrary, 40, 0xa100) == 0);
    CHECK(handles_bind(HARP_HANDLE_CUgraph, 41, 0xa100) == 0);
    CHECK(handles_bind_in(library, HARP_HANDLE_CUmodule, 42, 0xa200) == 0);
    CHECK(handles_bind_in(module, HARP_HANDLE_CUfunction, 43, 0xa300) == 0);
    CHECK(handles_id_in(graph, HARP_HANDLE_CUgraphNode, 0xa400, &id) == 0);
    o = handles_owner(HARP_HANDLE_CUfunction, 0xa300);
    CHECK(o.kind == module.kind && o.value == module.value);
    struct node *taken = handles_take(HARP_HANDLE_CUlibrary, 0xa100);
    for (const struct node *n = NULL; (n = handles_next(taken, n, &o)) != NULL;)
        count++;
    CHECK(count == 3 && handles_value(HARP_HANDLE_CUfunction, 43, &value) == -ENOENT);
    CHECK(handles_value(HARP_HANDLE_CUmodule, 42, &value) == -ENOENT);
    CHECK(handles_value(HARP_HANDLE_CUgraphNode, id, &value) == 0);
    handles_put_back(taken); /* refused */
    CHECK(handles_value(HARP_HANDLE_CUfunction, 43, &value) == 0 && value == 0xa300);
    handles_drop(handles_take_of(library));
    CHECK(handles_value(HARP_HANDLE_CUlibrary, 40, &value) == 0);
    CHECK(handles_value(HARP_HANDLE_CUfunction, 43, &value) == -ENOENT);
    handles_drop(handles_take(HARP_HANDLE_CUlibrary, 0xa100));
    handles_drop(handles_take(HARP_HANDLE_CUgraph, 0xa100));
    CHECK(handles_value(HARP_HANDLE_CUgraphNode, id, &value) == -ENOENT);
    CHECK(!handles_known(HARP_HANDLE_CUgraphNode, 0xa400, &id));
}

/* Two calls hold a function of a module, one of them by the module's own id, and a third ends it.
 */
static struct node *ending;
static atomic_int ends;

static void *end_it(void *arg)
{
    const struct uses none = {0};
    atomic_store(&ends, 1);
    handles_wait(ending, arg != NULL ? arg : &none);
    atomic_store(&ends, 2);
    return NULL;
}

static void test_what_calls_hold_ends_when_they_let_go(void)
{
    const struct owner module = {.kind = HARP_HANDLE_CUmodule, .value = 0xb100};
    struct uses first = {0}, second = {0}, third = {0};
    uint64_t value = 0;
    bool lost;
    pthread_t thread;
    CHECK(handles_bind(HARP_HANDLE_CUmodule, 50, 0xb100) == 0);
    CHECK(handles_bind_in(module, HARP_HANDLE_CUfunction, 51, 0xb200) == 0);
    CHECK(handles_use(&first, HARP_HANDLE_CUfunction, 51, &value) == 0 && value == 0xb200);
    CHECK(handles_use(&second, HARP_HANDLE_CUfunction, 52, &value) == -ENOENT);
    CHECK(handles_use(&second, HARP_HANDLE_CUmodule, 50, &value) == 0 && value == 0xb100);
    CHECK(handles_use(&third, HARP_HANDLE_CUmodule, 50, &value) == 0);
    ending = handles_take_held(&third, HARP_HANDLE_CUmodule, 0xb100, &lost);
    CHECK(ending != NULL && !lost);
    /* Nobody else ends it as well. */
    CHECK(handles_take_held(&second, HARP_HANDLE_CUmodule, 0xb100, &lost) == NULL && lost);
    CHECK(handles_use(&second, HARP_HANDLE_CUmodule, 50, &value) == -ENOENT);
    CHECK(pthread_create(&thread, NULL, end_it, &third) == 0);
    while (atomic_load(&ends) == 0)
        sched_yield();
    handles_let_go(&second);
    usleep(20000);
    CHECK(atomic_load(&ends) == 1);
    handles_let_go(&first);
    CHECK(pthread_join(thread, NULL) == 0 && atomic_load(&ends) == 2);
    /* The call has failed: all is as before. Then it has not. */
    handles_put_back(ending);
    handles_let_go(&third);
    CHECK(handles_use(&first, HARP_HANDLE_CUfunction, 51, &value) == 0);
    ending = handles_take_held(&third, HARP_HANDLE_CUmodule, 0xb100, &lost);
    CHECK(ending != NULL && !lost);
    handles_drop(ending); /* the call of `first` still looks at it */
    handles_let_go(&first);
    CHECK(handles_use(&first, HARP_HANDLE_CUfunction, 51, &value) == -ENOENT);
    free(first.nodes);
    free(second.nodes);
    free(third.nodes);
}

static void test_many_handles_and_a_bound(void)
{
    uint64_t value;
    for (uint64_t i = 0; i < 100000; i++)
        CHECK(handles_bind(EVENT, 1000 + i, 0x100000 + 16 * i) == 0);
    for (uint64_t i = 0; i < 100000; i += 2)
        handles_drop(handles_take(EVENT, 0x100000 + 16 * i));
    for (uint64_t i = 0; i < 100000; i++)
        CHECK(handles_value(EVENT, 1000 + i, &value) == (i % 2 == 0 ? -ENOENT : 0));
    int err = 0;
    uint64_t bound = 0;
    for (uint64_t i = 0; err == 0 && bound < 2000000; i++, bound++)
        err = handles_bind(EVENT, 1000000 + i, 0x80000000 + i);
    CHECK(err == -ENOMEM && bound > 900000 && bound <= 1 << 20);
}

int main(void)
{
    test_an_id_stands_for_one_handle_of_its_kind();
    test_a_kernel_is_taken_for_a_function_and_not_the_other_way();
    test_what_a_driver_answers_has_one_id();
    test_a_handle_that_a_call_ends_is_none_until_it_fails();
    test_what_ends_with_a_handle_ends_with_that();
    test_what_calls_hold_ends_when_they_let_go();
    test_many_handles_and_a_bound();
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of a profile: names and rows, what batches took, what is predicted, several writers.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "src/shim/gate/profile.h"

#define THREADS 4
#define EACH    20000

static struct harp_profile page;

static struct harp_profile_row *named(const char *name)
{
    return harp_profile_named(&page, name);
}

static void names(void)
{
    memset(&page, 0, sizeof page);
    struct harp_profile_row *a = named("alpha");
    CHECK(a == named("alpha") && a != named("beta") && strcmp(a->name, "alpha") == 0);
    CHECK(a >= &page.row[HARP_PROFILE_NAMED] && a->key != 0 && a->named == 1);

    char one[200], two[200];
    memset(one, 'x', sizeof one);
    one[199] = '\0';
    memcpy(two, one, sizeof two);
    two[150] = 'y'; /* the same as far as there is room */
    struct harp_profile_row *first = named(one), *second = named(two);
    CHECK(first != second && strcmp(first->name, second->name) != 0);
    CHECK(strlen(first->name) == HARP_PROFILE_NAME - 1 && first->name[110] == '~');
    char fits[HARP_PROFILE_NAME];
    memset(fits, 'z', sizeof fits);
    fits[HARP_PROFILE_NAME - 1] = '\0';
    CHECK(strcmp(named(fits)->name, fits) == 0);

    /* Its claimer ended before it wrote the name. */
    memset(a->name, 0, sizeof a->name);
    a->named = 0;
    CHECK(named("alpha") == a && a->named == 1 && strcmp(a->name, "alpha") == 0);
}

static void full(void)
{
    struct harp_profile_row *first = NULL;
    memset(&page, 0, sizeof page);
    for (unsigned i = 0; i < HARP_PROFILE_ROWS - HARP_PROFILE_NAMED; i++) {
        char name[32];
        snprintf(name, sizeof name, "kernel_%u", i);
        struct harp_profile_row *row = named(name);
        CHECK(row >= &page.row[HARP_PROFILE_NAMED] && strcmp(row->name, name) == 0);
        first = i == 0 ? row : first;
    }
    CHECK(named("too_late") == &page.row[HARP_PROFILE_OTHER]);
    CHECK(named("kernel_0") == first);
}

static void measured(void)
{
    memset(&page, 0, sizeof page);
    struct harp_profile_row *a = named("a"), *b = named("b"), *rows[] = {a, NULL, b, a};
    const uint64_t weight[] = {10, 20, 30, 40};
    harp_profile_measured(rows, weight, 4, 1000);
    CHECK(a->measured_ns == 500 && a->measured_launches == 2);
    CHECK(b->measured_ns == 300 && b->measured_launches == 1);
    const uint64_t none[] = {0, 0};
    harp_profile_measured(rows + 2, none, 2, 101);
    CHECK(a->measured_ns + b->measured_ns == 901); /* nothing is lost in parts */
    const uint64_t large[] = {UINT32_MAX, UINT32_MAX};
    harp_profile_measured(rows + 2, large, 2, UINT32_MAX * 1000ull);
    CHECK(a->measured_ns + b->measured_ns == 901 + UINT32_MAX * 1000ull);
}

static void predicted(void)
{
    memset(&page, 0, sizeof page);
    struct harp_profile_row *a = named("a"), *b = named("b"), *c = named("c");
    a->launches = 10;
    a->measured_launches = 2;
    a->measured_ns = 2000;
    b->launches = 7; /* never measured */
    c->launches = 5; /* nonsense of somebody else's */
    c->measured_launches = 6;
    c->measured_ns = 1;
    harp_profile_stand(&page);
    CHECK(a->predicted_launches == 8 && a->predicted_ns == 8000);
    CHECK(b->predicted_launches == 0 && b->predicted_ns == 0 && c->predicted_ns == 0);
    harp_profile_stand(&page); /* once */
    CHECK(a->predicted_launches == 8 && a->predicted_ns == 8000);
    a->launches = 12;
    a->measured_ns = 4000;
    harp_profile_stand(&page); /* what was predicted stays so: totals only grow */
    CHECK(a->predicted_launches == 10 && a->predicted_ns == 12000);
}

/* Without a page nothing is added to what all threads of the process would write. */
static void nobodys(void)
{
    static const struct harp_profile_row nothing;
    struct harp_profile_row *rows[] = {&harp_profile_none};
    const uint64_t weight[] = {1};
    harp_profile_launched(&harp_profile_none, 3);
    harp_profile_launched(NULL, 3);
    harp_profile_measured(rows, weight, 1, 10);
    CHECK(memcmp(&harp_profile_none, &nothing, sizeof nothing) == 0);
}

static void *writer(void *name)
{
    for (unsigned i = 0; i < EACH; i++) {
        struct harp_profile_row *row = named(name), *rows[] = {row};
        const uint64_t weight[] = {1};
        harp_profile_launched(row, 3);
        if (i % 2 == 0)
            harp_profile_measured(rows, weight, 1, 10);
        if (i % 64 == 0)
            harp_profile_stand(&page);
    }
    return NULL;
}

static void several(void)
{
    pthread_t threads[THREADS];
    static const char *const name[] = {"same", "same", "same", "another"};
    memset(&page, 0, sizeof page);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, writer, (void *)(uintptr_t)name[i]) == 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    harp_profile_stand(&page);
    const struct harp_profile_row *row = named("same");
    CHECK(row->launches == 3ull * EACH && row->blocks == 9ull * EACH);
    CHECK(row->measured_launches == 3ull * EACH / 2 && row->measured_ns == 30ull * EACH / 2);
    /* One is predicted that is measured a moment later: at most so many as there are writers. */
    CHECK(row->measured_launches + row->predicted_launches >= row->launches);
    CHECK(row->predicted_ns == 10 * row->predicted_launches);
}

int main(void)
{
    names();
    full();
    measured();
    predicted();
    nobodys();
    several();
    puts("ok");
    return 0;
}

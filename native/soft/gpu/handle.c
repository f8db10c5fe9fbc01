/* SPDX-License-Identifier: Apache-2.0
 *
 * Which handles are alive. A handle is its object's address; users pass stale and invented ones,
 * which must be errors, so none is dereferenced before it was found here. Open addressing, one
 * mutex (innermost of all), no removal marks: deletion shifts the run back.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "soft/gpu/soft.h"

struct entry {
    uintptr_t object; /* 0: empty */
    uint32_t kind;
};

static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER; /* guards the three below */
static struct entry *table;
static size_t table_size; /* a power of two */
static size_t table_used;

static size_t slot_of(uintptr_t object, size_t size)
{
    return (size_t)(((uint64_t)object >> 4) * 0x9e3779b97f4a7c15ull >> 20) & (size - 1);
}

static void put(struct entry *into, size_t size, struct entry e)
{
    size_t i = slot_of(e.object, size);

    while (into[i].object != 0)
        i = (i + 1) & (size - 1);
    into[i] = e;
}

static int grow(void)
{
    size_t size = table_size == 0 ? 256 : table_size * 2;
    struct entry *wider = calloc(size, sizeof *wider);

    if (wider == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < table_size; i++)
        if (table[i].object != 0)
            put(wider, size, table[i]);
    free(table);
    table = wider;
    table_size = size;
    return 0;
}

static struct entry *find(enum soft_kind kind, const void *object)
{
    uintptr_t o = (uintptr_t)object;

    if (o == 0 || table_size == 0)
        return NULL;
    for (size_t i = slot_of(o, table_size); table[i].object != 0; i = (i + 1) & (table_size - 1))
        if (table[i].object == o && table[i].kind == (uint32_t)kind)
            return &table[i];
    return NULL;
}

int soft_handle_add(enum soft_kind kind, const void *object)
{
    int err = 0;

    pthread_mutex_lock(&table_lock);
    if (table_used * 2 >= table_size)
        err = grow();
    if (err == 0) {
        put(table, table_size, (struct entry){(uintptr_t)object, (uint32_t)kind});
        table_used++;
    }
    pthread_mutex_unlock(&table_lock);
    return err;
}

bool soft_handle_is(enum soft_kind kind, const void *object)
{
    bool found;

    pthread_mutex_lock(&table_lock);
    found = find(kind, object) != NULL;
    pthread_mutex_unlock(&table_lock);
    return found;
}

bool soft_handle_remove(enum soft_kind kind, const void *object)
{
    struct entry *e;

    pthread_mutex_lock(&table_lock);
    e = find(kind, object);
    if (e != NULL) {
        size_t hole = (size_t)(e - table);

        for (size_t i = (hole + 1) & (table_size - 1); table[i].object != 0;
             i = (i + 1) & (table_size - 1)) {
            size_t home = slot_of(table[i].object, table_size);

            /* may move into the hole unless its home lies in (hole, i] */
            if (((i - home) & (table_size - 1)) >= ((i - hole) & (table_size - 1))) {
                table[hole] = table[i];
                hole = i;
            }
        }
        table[hole] = (struct entry){0, 0};
        table_used--;
    }
    pthread_mutex_unlock(&table_lock);
    return e != NULL;
}

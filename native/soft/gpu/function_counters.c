/* SPDX-License-Identifier: Apache-2.0
 *
 * Counters by kernel name; they outlive modules, so that a test may ask after the client is done.
 */
#include "soft/gpu/function_counters.h"

#include <stdlib.h>
#include <string.h>

#include "soft/gpu/module.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct soft_counter *counters; /* guarded by lock; entries are never freed */

struct soft_counter *soft_counter_of(const char *name)
{
    pthread_mutex_lock(&lock);
    struct soft_counter *counter = counters;
    while (counter != NULL && strcmp(counter->name, name) != 0)
        counter = counter->next;
    if (counter == NULL) {
        size_t bytes = strlen(name) + 1;
        counter = calloc(1, sizeof *counter + bytes);
        if (counter != NULL) {
            memcpy(counter->name, name, bytes);
            counter->next = counters;
            counters = counter;
        }
    }
    pthread_mutex_unlock(&lock);
    return counter;
}

size_t harp_soft_counters(struct harp_soft_counter *out, size_t max)
{
    size_t count = 0;
    pthread_mutex_lock(&lock);
    for (const struct soft_counter *it = counters; it != NULL; it = it->next, count++) {
        if (count >= max || out == NULL)
            continue;
        struct harp_soft_counter *to = &out[count];
        memset(to, 0, sizeof *to);
        strncpy(to->name, it->name, sizeof to->name - 1);
        to->launches = it->launches;
        to->blocks = it->blocks;
        to->threads = it->threads;
        to->instructions = it->instructions;
        to->load_bytes = it->load_bytes;
        to->store_bytes = it->store_bytes;
    }
    pthread_mutex_unlock(&lock);
    return count;
}

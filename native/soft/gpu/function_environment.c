/* SPDX-License-Identifier: Apache-2.0 */
#include "soft/gpu/function_environment.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define WAIT_DEFAULT_MS 10000

extern char **environ;

/* What a compiler needs, nothing else. */
static bool passes(const char *variable)
{
    static const char *const names[] = {
        "PATH=", "HOME=", "TMPDIR=", "CC=", "XDG_CACHE_HOME=", "HARP_PTXC_"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strncmp(variable, names[i], strlen(names[i])) == 0)
            return true;
    return false;
}

static char **scrubbed(bool *failed)
{
    size_t count = 0, kept = 0;
    while (environ != NULL && environ[count] != NULL)
        count++;
    char **env = calloc(count + 2, sizeof *env);
    if (env == NULL)
        return NULL;
    for (size_t i = 0; i < count; i++)
        if (passes(environ[i])) {
            env[kept] = strdup(environ[i]);
            *failed |= env[kept++] == NULL;
        }
    env[kept] = strdup("LC_ALL=C");
    *failed |= env[kept] == NULL;
    return env;
}

static char *copy_of(const char *name, bool *failed)
{
    const char *told = getenv(name);
    char *copy = told != NULL ? strdup(told) : NULL;
    *failed |= told != NULL && copy == NULL;
    return copy;
}

static int64_t wait_ms(void)
{
    const char *told = getenv("HARP_PTXC_WAIT_MS");
    char *end = NULL;
    long value = told != NULL ? strtol(told, &end, 10) : -1;
    return told == NULL || *told == '\0' || *end != '\0' || value < 0 ? WAIT_DEFAULT_MS : value;
}

static void drop(struct soft_environment *made)
{
    for (char **at = made->passed; at != NULL && *at != NULL; at++)
        free(*at);
    free(made->passed);
    free(made->program);
    free(made->service);
    free(made);
}

const struct soft_environment *soft_environment(void)
{
    static _Atomic(struct soft_environment *) kept;
    struct soft_environment *made = atomic_load(&kept), *none = NULL;
    if (made != NULL)
        return made;
    made = calloc(1, sizeof *made);
    if (made == NULL)
        return NULL;
    bool failed = false;
    made->passed = scrubbed(&failed);
    made->program = copy_of("HARP_PTXC", &failed);
    made->service = copy_of("HARP_PTXC_SOCKET", &failed);
    made->service_wait_ms = wait_ms();
    if (failed || made->passed == NULL) {
        drop(made);
        return NULL;
    }
    /* No lock, as a child of the client might find it taken: of two threads one is too late. */
    if (atomic_compare_exchange_strong(&kept, &none, made))
        return made;
    drop(made);
    return none;
}

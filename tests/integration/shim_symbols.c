/* SPDX-License-Identifier: Apache-2.0
 *
 * shim_symbols LIBRARY NAMES [ANOTHER]: per line of NAMES ("name hash"), what libharp's lookup
 * finds: whether it is what dlsym says, whether there is any, whether the table alone told.
 * ANOTHER: a dlsym that answers this name's function for every name stands before the real one.
 */
#include <dlfcn.h>
#include <stdio.h>

static const char *instead;

static void *asked(void *handle, const char *name)
{
    return dlsym(handle, instead != NULL ? instead : name);
}

#define dlsym asked
#include "src/shim/entry/symbols.c"

#define MOST 4096

static char text[MOST][128];
static const char *names[MOST];
static uint32_t hashes[MOST];
static void *found[MOST];

int main(int argc, char **argv)
{
    void *handle = argc > 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    FILE *file = handle != NULL ? fopen(argv[2], "r") : NULL;
    unsigned count = 0;
    struct table t;
    if (file == NULL)
        return fprintf(stderr, "%s\n", handle == NULL ? dlerror() : argv[2]), 1;
    instead = argc > 3 ? argv[3] : NULL;
    while (count < MOST && fscanf(file, "%127s %u", text[count], &hashes[count]) == 2) {
        names[count] = text[count];
        count++;
    }
    harp_symbols(handle, names, hashes, count, found);
    bool there = read_table(handle, &t);
    for (unsigned i = 0; i < count; i++)
        printf("%s %d %d %d\n", names[i], found[i] == asked(handle, names[i]), found[i] != NULL,
               there && look_up(&t, names[i], hashes[i]) != NULL);
    return 0;
}

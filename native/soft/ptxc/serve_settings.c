/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "soft/ptxc/serve.h"

bool serve_read_settings(struct serve_settings *s, int argc, char **argv)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    *s = (struct serve_settings){.jobs = cpus < 1    ? 1
                                         : cpus > 16 ? 16
                                                     : (uint32_t)cpus,
                                 .timeout_s = 240,
                                 .cache_mib = 1024,
                                 .memory_mib = 4096};
    struct {
        const char *name;
        const char **text;
        uint32_t *number, most;
    } const all[] = {
        {"--socket", &s->socket, NULL, 0},
        {"--cache", &s->cache, NULL, 0},
        {"--jobs", NULL, &s->jobs, 256},
        {"--timeout-s", NULL, &s->timeout_s, 3600},
        {"--cache-mib", NULL, &s->cache_mib, 1u << 20},
        {"--memory-mib", NULL, &s->memory_mib, 1u << 20},
    };
    for (int i = 0; i < argc; i += 2) {
        size_t k = 0;
        while (k < sizeof(all) / sizeof(all[0]) && strcmp(argv[i], all[k].name) != 0)
            k++;
        if (k == sizeof(all) / sizeof(all[0]) || i + 1 == argc)
            return false;
        if (all[k].text) {
            *all[k].text = argv[i + 1];
            continue;
        }
        char *end = NULL;
        unsigned long value = strtoul(argv[i + 1], &end, 10);
        if (*end || end == argv[i + 1] || !value || value > all[k].most)
            return false;
        *all[k].number = (uint32_t)value;
    }
    return s->socket && *s->socket == '/' && s->cache && *s->cache == '/';
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * The device's printf: formats the packed argument buffer of vprintf (each argument aligned to its
 * size: 4 bytes for int, 8 for long, double and pointers) and puts it into the context's FIFO
 * (fifo.c).
 */
/* the conversion is put together from the device text, checked letter by letter */
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "soft/gpu/context.h"
#include "soft/gpu/launch.h"

#define TEXT_MAX 8192

struct text {
    char *at;
    size_t room;
};

__attribute__((format(printf, 2, 3))) static void put(struct text *text, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text->at, text->room, format, args);
    va_end(args);
    if (n < 0)
        return;
    size_t step = (size_t)n < text->room ? (size_t)n : text->room - 1;
    text->at += step;
    text->room -= step;
}

static const void *take(const unsigned char **args, size_t bytes)
{
    uintptr_t p = ((uintptr_t)*args + bytes - 1) & ~(uintptr_t)(bytes - 1);
    *args = (const unsigned char *)p + bytes;
    return (const void *)p;
}

static const char *device_byte(struct soft_ctx *ctx, uint64_t address)
{
    const char *byte = soft_heap_host(ctx, address);
    return byte != NULL ? byte : soft_mem_host(ctx, address, 1);
}

/* A %s argument is a device address; its bytes must be the context's up to the NUL. */
static const char *device_string(const struct ptx_launch *launch, uint64_t address)
{
    struct soft_run *run = launch->host_data;
    const char *start = device_byte(run->ctx, address);
    for (uint64_t i = 0; start != NULL && i < TEXT_MAX; i++) {
        const char *byte = device_byte(run->ctx, address + i);
        if (byte == NULL)
            return NULL;
        if (*byte == '\0')
            return start;
    }
    return NULL;
}

static const char *convert(struct text *text, const struct ptx_launch *launch, const char *spec,
                           const unsigned char **args)
{
    const char *end = spec + 1;
    int longs = 0;
    end += strspn(end, "-+ #0123456789.");
    for (; strchr("hlzjt", *end) != NULL && *end != '\0'; end++)
        longs += *end == 'l' || *end == 'z' || *end == 'j' || *end == 't';
    char format[48];
    size_t flags = strspn(spec + 1, "-+ #0123456789.");
    if (*end == '\0' || flags > 32)
        return NULL;
    snprintf(format, sizeof format, "%%%.*s", (int)flags, spec + 1);
    size_t used = strlen(format);
    char kind = *end;
    if (strchr("di", kind) != NULL) {
        snprintf(format + used, sizeof format - used, "ll%c", kind);
        long long value =
            longs != 0 ? *(const long long *)take(args, 8) : (long long)*(const int *)take(args, 4);
        put(text, format, value);
    } else if (strchr("uxXo", kind) != NULL) {
        snprintf(format + used, sizeof format - used, "ll%c", kind);
        unsigned long long value = longs != 0
                                       ? *(const unsigned long long *)take(args, 8)
                                       : (unsigned long long)*(const unsigned *)take(args, 4);
        put(text, format, value);
    } else if (strchr("fFeEgGaA", kind) != NULL) {
        snprintf(format + used, sizeof format - used, "%c", kind);
        put(text, format, *(const double *)take(args, 8));
    } else if (kind == 'c') {
        snprintf(format + used, sizeof format - used, "c");
        put(text, format, *(const int *)take(args, 4));
    } else if (kind == 'p') {
        put(text, "%p", *(void *const *)take(args, 8));
    } else if (kind == 's') {
        const char *string = device_string(launch, *(const uint64_t *)take(args, 8));
        snprintf(format + used, sizeof format - used, "s");
        put(text, format, string != NULL ? string : "(null)");
    } else {
        return NULL;
    }
    return end + 1;
}

int soft_device_printf(const struct ptx_launch *launch, const char *format, const void *args)
{
    char *buffer = malloc(TEXT_MAX);
    if (buffer == NULL)
        return -1;
    buffer[0] = '\0';
    struct text text = {buffer, TEXT_MAX};
    const unsigned char *next = args;
    int converted = 0;
    while (*format != '\0') {
        size_t plain = strcspn(format, "%");
        put(&text, "%.*s", (int)plain, format);
        format += plain;
        if (*format == '\0')
            break;
        if (format[1] == '%') {
            put(&text, "%%");
            format += 2;
            continue;
        }
        const char *after = convert(&text, launch, format, &next);
        if (after == NULL) {
            put(&text, "%s", format); /* as it stands: a conversion we do not know */
            break;
        }
        converted++;
        format = after;
    }
    soft_fifo_put(((struct soft_run *)launch->host_data)->ctx, buffer, strlen(buffer));
    free(buffer);
    return converted;
}

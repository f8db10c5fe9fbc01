/* SPDX-License-Identifier: Apache-2.0
 *
 * `.entry name(.param .align 8 .b8 p[24], .param .u64 .ptr .global q)` and the like. A parameter
 * lies at the next multiple of its alignment, which is that of its type unless it says another.
 */
#include "src/shim/remote/layout.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define BYTES_MOST 32764u

/* Past white space and comments. */
static const char *skip(const char *s)
{
    for (;;) {
        s += strspn(s, " \t\r\n");
        if (s[0] == '/' && s[1] == '/') {
            s += strcspn(s, "\n");
        } else if (s[0] == '/' && s[1] == '*') {
            const char *end = strstr(s + 2, "*/");
            s = end != NULL ? end + 2 : s + strlen(s);
        } else {
            return s;
        }
    }
}

static bool word(char c)
{
    return isalnum((unsigned char)c) || c == '_' || c == '$' || c == '%' || c == '.';
}

/* The next token: a word with its dots, or one character. 0: the end. */
static size_t token(const char *s)
{
    size_t n = 0;
    while (word(s[n]))
        n++;
    return n != 0 ? n : *s != '\0';
}

static bool is(const char *s, size_t n, const char *what)
{
    return n == strlen(what) && memcmp(s, what, n) == 0;
}

/* Of .u64, .b8, .f16x2 and so on; 0: that is no type. */
static uint32_t type_bytes(const char *s, size_t n)
{
    if (n < 3 || s[0] != '.' || strchr("usbf", s[1]) == NULL)
        return 0;
    uint32_t bits = 0, times = 1;
    size_t i = 2;
    for (; i < n && isdigit((unsigned char)s[i]); i++)
        bits = 10 * bits + (uint32_t)(s[i] - '0');
    if (i + 2 == n && s[i] == 'x' && s[i + 1] == '2')
        times = 2;
    else if (i != n)
        return 0;
    return bits >= 8 && bits <= 128 && bits % 8 == 0 ? bits / 8 * times : 0;
}

/* One parameter, from after .param to its comma or the bracket. NULL: not understood. */
static const char *param(const char *s, struct harp_layout *l)
{
    uint32_t bytes = 0, align = 0, count = 1;
    for (;;) {
        s = skip(s);
        size_t n = token(s);
        if (n == 0)
            return NULL;
        if (is(s, n, ",") || is(s, n, ")"))
            break;
        if (is(s, n, ".align")) {
            char *end;
            unsigned long value = strtoul(skip(s + n), &end, 10);
            if (bytes == 0) /* behind the type it is of what a pointer points to */
                align = value > 0 && value <= 128 ? (uint32_t)value : 0;
            s = end;
            continue;
        }
        if (is(s, n, "[")) {
            char *end;
            unsigned long value = strtoul(skip(s + n), &end, 0);
            end = (char *)(uintptr_t)skip(end);
            if (*end != ']' || value == 0 || value > BYTES_MOST)
                return NULL;
            count = (uint32_t)value;
            s = end + 1;
            continue;
        }
        if (is(s, n, ".v2") || is(s, n, ".v4"))
            return NULL;
        if (bytes == 0)
            bytes = type_bytes(s, n);
        s += n;
    }
    if (bytes == 0)
        return NULL;
    align = align != 0 ? align : bytes;
    uint32_t offset = (l->bytes + align - 1) / align * align;
    if (offset > BYTES_MOST || (uint64_t)bytes * count > BYTES_MOST - offset)
        return NULL;
    l->param[l->count].offset = offset;
    l->param[l->count++].bytes = bytes * count;
    l->bytes = offset + bytes * count;
    return s;
}

static bool params(const char *s, struct harp_layout *l, uint32_t room)
{
    s = skip(s);
    if (*s != '(') /* none */
        return *s == '{' || *s == '.' || *s == ';';
    s = skip(s + 1);
    while (*s != ')') {
        size_t n = token(s);
        if (!is(s, n, ".param") || l->count == room)
            return false;
        s = param(s + n, l);
        if (s == NULL)
            return false;
        if (*s == ',')
            s = skip(s + 1);
    }
    return true;
}

bool harp_layout_of(const char *ptx, const char *kernel, struct harp_layout *layout, uint32_t room)
{
    size_t length = strlen(kernel), n;
    for (const char *s = skip(ptx); (n = token(s)) != 0; s = skip(s + n)) {
        if (!is(s, n, ".entry"))
            continue;
        s = skip(s + n);
        n = token(s);
        if (n != length || memcmp(s, kernel, n) != 0)
            continue;
        layout->count = layout->bytes = 0;
        return params(s + n, layout, room);
    }
    return false;
}

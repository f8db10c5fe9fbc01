/* SPDX-License-Identifier: Apache-2.0 */
#include "src/cdi/json.h"

#include <string.h>

enum { DEEPEST = 128, KEY_MAX = 256 };

struct reader {
    const char *at, *end;
};

static char peek(struct reader *r)
{
    while (r->at < r->end && strchr(" \t\r\n", *r->at) && *r->at)
        r->at++;
    return r->at < r->end ? *r->at : '\0';
}

static bool take(struct reader *r, char c)
{
    if (peek(r) != c || c == '\0')
        return false;
    r->at++;
    return true;
}

static bool hex(struct reader *r, unsigned *out)
{
    *out = 0;
    for (int i = 0; i < 4; i++) {
        static const char digits[] = "0123456789abcdef";
        if (r->at == r->end)
            return false;
        char c = *r->at++;
        const char *found = c ? strchr(digits, c >= 'A' && c <= 'F' ? c + 32 : c) : NULL;
        if (!found)
            return false;
        *out = *out * 16 + (unsigned)(found - digits);
    }
    return true;
}

/* UTF-8 of one code point; 0: none. */
static size_t encode(unsigned code, char out[4])
{
    if (code == 0 || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
        return 0;
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    size_t more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    static const unsigned char heads[] = {0, 0xc0, 0xe0, 0xf0};
    out[0] = (char)(heads[more] | (code >> (6 * more)));
    for (size_t i = 1; i <= more; i++)
        out[i] = (char)(0x80 | ((code >> (6 * (more - i))) & 0x3f));
    return more + 1;
}

static size_t escape(struct reader *r, char out[4])
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (r->at == r->end)
        return 0;
    char c = *r->at++;
    if (c != 'u') {
        const char *found = c ? strchr(from, c) : NULL;
        if (!found)
            return 0;
        out[0] = to[found - from];
        return 1;
    }
    unsigned code, low;
    if (!hex(r, &code))
        return 0;
    if (code >= 0xd800 && code < 0xdc00) { /* half of a pair */
        if (r->end - r->at < 2 || r->at[0] != '\\' || r->at[1] != 'u')
            return 0;
        r->at += 2;
        if (!hex(r, &low) || low < 0xdc00 || low >= 0xe000)
            return 0;
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    return encode(code, out);
}

/* `room` 0: read past it. What does not fit is an error, else. */
static bool text(struct reader *r, char *out, size_t room)
{
    size_t used = 0;
    if (!take(r, '"'))
        return false;
    while (r->at < r->end && *r->at != '"') {
        char one[4] = {*r->at++};
        size_t n = one[0] == '\\' ? escape(r, one) : (unsigned char)one[0] >= ' ' ? 1 : 0;
        if (!n || (room && used + n >= room))
            return false;
        if (room)
            memcpy(out + used, one, n);
        used += n;
    }
    if (room)
        out[used] = '\0';
    return take(r, '"');
}

static bool skip(struct reader *r, int depth)
{
    char open = peek(r);
    if (depth > DEEPEST)
        return false;
    if (open == '"')
        return text(r, NULL, 0);
    if (open == '{' || open == '[') {
        char close = open == '{' ? '}' : ']';
        r->at++;
        if (take(r, close))
            return true;
        do {
            if (open == '{' && !(text(r, NULL, 0) && take(r, ':')))
                return false;
            if (!skip(r, depth + 1))
                return false;
        } while (take(r, ','));
        return take(r, close);
    }
    const char *begin = r->at; /* a number, true, false, null: nobody asks which */
    while (r->at < r->end && *r->at && strchr("+-.0123456789aeflnrstuE", *r->at))
        r->at++;
    return r->at > begin;
}

bool json_text(const char *json, size_t bytes, const char *const *path, size_t depth, char *out,
               size_t room)
{
    struct reader r = {json, json + bytes};
    for (size_t level = 0; level < depth; level++) {
        bool found = false;
        if (!take(&r, '{'))
            return false;
        do {
            char key[KEY_MAX];
            struct reader before = r;
            if (!text(&r, key, sizeof key)) { /* a long one is none of ours */
                r = before;
                key[0] = '\0';
                if (!text(&r, NULL, 0))
                    return false;
            }
            if (!take(&r, ':'))
                return false;
            found = strcmp(key, path[level]) == 0;
        } while (!found && skip(&r, 0) && take(&r, ','));
        if (!found)
            return false;
    }
    return room > 0 && text(&r, out, room);
}

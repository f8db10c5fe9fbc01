/* SPDX-License-Identifier: Apache-2.0 */
#include "src/shim/gate/image.h"

#include <ctype.h>
#include <elf.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define MOST (1ull << 50) /* more than any device has: sums stop there */

/* --- PTX text --------------------------------------------------------------------------------- */

static const char *skip(const char *s)
{
    for (;;) {
        while (isspace((unsigned char)*s))
            s++;
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

static bool word(unsigned char c)
{
    return isalnum(c) || c == '_' || c == '$' || c == '%';
}

/* Length of the token at `s`: a directive with its dot, a word, or one character. */
static size_t token(const char *s)
{
    size_t n = *s == '.' || word((unsigned char)*s) ? 1 : 0;
    while (n != 0 && word((unsigned char)s[n]))
        n++;
    return n != 0 ? n : *s != '\0';
}

static bool is(const char *s, size_t n, const char *what)
{
    return strlen(what) == n && memcmp(s, what, n) == 0;
}

/* Bytes of one element of a fundamental type; 0: not a type. */
static uint64_t type_bytes(const char *s, size_t n)
{
    if (n < 3 || s[0] != '.' || strchr("bsuf", s[1]) == NULL)
        return is(s, n, ".pred") ? 1 : is(s, n, ".texref") || is(s, n, ".surfref") ? 8 : 0;
    uint64_t bits = 0;
    for (size_t i = 2; i < n && isdigit((unsigned char)s[i]); i++)
        bits = bits * 10 + (uint64_t)(s[i] - '0');
    return bits >= 8 && bits <= 128 ? bits / 8 : 0;
}

static uint64_t times(uint64_t a, uint64_t b)
{
    return b != 0 && a > MOST / b ? MOST : a * b;
}

/* Values of an initializer that starts at '{'; moves *s behind it. */
static uint64_t initializers(const char **s)
{
    uint64_t n = 0;
    int depth = 0;
    bool value = false;
    for (const char *at = skip(*s); *at != '\0'; at = skip(at)) {
        size_t length = token(at);
        if (*at == '{') {
            depth++;
        } else if (*at == '}' || *at == ',') {
            n += value;
            value = false;
            depth -= *at == '}';
        } else {
            value = true;
        }
        at += length;
        *s = at;
        if (depth == 0)
            break;
    }
    return n;
}

/* Names up to the semicolon: `a, b[4][2], c[] = {1, 2}`. */
static uint64_t declared(const char **s, uint64_t element)
{
    uint64_t sum = 0, one = 0;
    bool open = false, named = false;
    const char *at = skip(*s);
    while (*at != '\0' && *at != ';') {
        size_t n = token(at);
        if (*at == '[') {
            const char *inner = skip(at + 1);
            char *end = NULL;
            uint64_t count = strtoull(inner, &end, 0);
            if (*inner == ']')
                open = true;
            else
                one = times(one, count);
            at = end != NULL && end > inner ? end : inner;
            at += strcspn(at, "];");
            at += *at == ']';
        } else if (*at == '=') {
            at = skip(at + 1);
            if (*at == '{') {
                uint64_t count = initializers(&at);
                if (open)
                    one = times(one, count);
            } else {
                at += token(at);
            }
        } else if (*at == ',') {
            sum += named ? one : 0;
            named = open = false;
            at++;
        } else {
            if (word((unsigned char)*at) && !named) {
                named = true;
                one = element;
            }
            at += n;
        }
        at = skip(at);
    }
    *s = at;
    return (sum + (named ? one : 0)) < MOST ? sum + (named ? one : 0) : MOST;
}

uint64_t harp_ptx_bytes(const char *text)
{
    uint64_t sum = 0;
    bool external = false, pointer = false;
    for (const char *s = skip(text); *s != '\0' && sum < MOST; s = skip(s)) {
        /* `.ptr .global` in a parameter list names a space, and `ld.global` is an instruction */
        bool global =
            is(s, token(s), ".global") && !pointer && (s == text || !word((unsigned char)s[-1]));
        size_t n = token(s);
        external = is(s, n, ".extern") || (external && *s == '.');
        pointer = is(s, n, ".ptr");
        s += n;
        if (!global)
            continue;
        uint64_t element = 0, lanes = 1;
        for (s = skip(s); *s == '.'; s = skip(s + n)) {
            n = token(s);
            if (type_bytes(s, n) != 0)
                element = type_bytes(s, n);
            else if (is(s, n, ".v2") || is(s, n, ".v4"))
                lanes = (uint64_t)(s[2] - '0');
            else if (is(s, n, ".align")) {
                s = skip(s + n);
                n = token(s);
            } else if (is(s, n, ".attribute")) {
                n = strcspn(s, ")");
                n += s[n] == ')';
            }
        }
        uint64_t bytes = element != 0 ? declared(&s, element * lanes) : 0;
        sum += external ? 0 : bytes;
        external = false;
    }
    return sum < MOST ? sum : MOST;
}

/* --- objects ---------------------------------------------------------------------------------- */

static uint64_t elf_bytes(const unsigned char *image, uint64_t most)
{
    Elf64_Ehdr head;
    Elf64_Shdr section, names;
    uint64_t sum = 0;
    if (most != 0 && most < sizeof head)
        return 0;
    memcpy(&head, image, sizeof head);
    if (head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_shentsize != sizeof section ||
        head.e_shstrndx >= head.e_shnum ||
        (most != 0 && (head.e_shoff > most || head.e_shnum * sizeof section > most - head.e_shoff)))
        return 0;
    const unsigned char *table = image + head.e_shoff;
    memcpy(&names, table + head.e_shstrndx * sizeof names, sizeof names);
    if (most != 0 && (names.sh_offset > most || names.sh_size > most - names.sh_offset))
        return 0;
    for (unsigned i = 0; i < head.e_shnum; i++) {
        static const char prefix[] = ".nv.global"; /* and .nv.global.init */
        memcpy(&section, table + i * sizeof section, sizeof section);
        if (section.sh_name + sizeof prefix <= names.sh_size &&
            strncmp((const char *)image + names.sh_offset + section.sh_name, prefix,
                    sizeof prefix - 1) == 0)
            sum += section.sh_size < MOST ? section.sh_size : MOST;
    }
    return sum < MOST ? sum : MOST;
}

static bool is_elf(const unsigned char *image)
{
    return memcmp(image, ELFMAG, SELFMAG) == 0;
}

/* --- fat binaries ----------------------------------------------------------------------------- */

struct fat_head {
    uint32_t magic; /* 0xba55ed50 */
    uint16_t version, head_bytes;
    uint64_t bytes;
};

struct fat_entry {
    uint16_t kind; /* 1 PTX, 2 ELF */
    uint16_t unknown;
    uint32_t head_bytes;
    uint64_t payload_bytes;
};

/* `size`: of what there is; UINT64_MAX: as much as it says. */
static uint64_t fat_bytes(const unsigned char *image, uint64_t size, bool *known)
{
    struct fat_head head;
    uint64_t most = 0;
    if (size < sizeof head)
        return 0;
    memcpy(&head, image, sizeof head);
    if (head.head_bytes > size)
        return 0;
    if (head.bytes > size - head.head_bytes)
        head.bytes = size - head.head_bytes;
    const unsigned char *at = image + head.head_bytes, *end = at + head.bytes;
    while (end - at >= (ptrdiff_t)sizeof(struct fat_entry)) {
        struct fat_entry e;
        memcpy(&e, at, sizeof e);
        if (e.head_bytes < sizeof e || e.head_bytes > (size_t)(end - at) ||
            e.payload_bytes > (size_t)(end - at) - e.head_bytes)
            break;
        const unsigned char *payload = at + e.head_bytes;
        uint64_t bytes = 0;
        if (e.kind == 2 && e.payload_bytes > SELFMAG && is_elf(payload))
            bytes = elf_bytes(payload, e.payload_bytes);
        else if (e.kind == 1 && memchr(payload, '\0', e.payload_bytes) != NULL &&
                 strstr((const char *)payload, ".version") != NULL)
            bytes = harp_ptx_bytes((const char *)payload);
        else
            *known = false;
        most = bytes > most ? bytes : most;
        at = payload + e.payload_bytes;
    }
    return most;
}

uint64_t harp_image_bytes(const void *image, bool *known)
{
    uint32_t magic;
    *known = true;
    memcpy(&magic, image, sizeof magic); /* an image is longer than four bytes, or no image */
    if (magic == 0xba55ed50u)
        return fat_bytes(image, UINT64_MAX, known);
    if (magic == 0x466243b1u) { /* the wrapper of a linked fat binary: magic, version, data */
        const unsigned char *data;
        memcpy(&data, (const char *)image + 8, sizeof data);
        return data != NULL ? harp_image_bytes(data, known) : 0;
    }
    if (is_elf(image))
        return elf_bytes(image, 0);
    return harp_ptx_bytes(image);
}

uint64_t harp_image_file_bytes(const void *content, uint64_t size, bool *known)
{
    uint32_t magic;
    *known = true;
    if (size < sizeof magic)
        return 0;
    memcpy(&magic, content, sizeof magic);
    if (magic == 0xba55ed50u)
        return fat_bytes(content, size, known);
    if (magic == 0x466243b1u) {
        *known = false;
        return 0;
    }
    if (is_elf(content))
        return elf_bytes(content, size);
    return harp_ptx_bytes(content);
}

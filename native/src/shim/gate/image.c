/* SPDX-License-Identifier: Apache-2.0 */
#include "src/shim/gate/image.h"

#include <ctype.h>
#include <elf.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define MOST (1ull << 50) /* more than any device has: sums stop there */

/* FNV-1a. Two kernels of one module with one hash would be charged once. */
static uint64_t name_hash(const char *name, size_t n)
{
    uint64_t hash = 0xcbf29ce484222325ull;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ (unsigned char)name[i]) * 0x100000001b3ull;
    return hash;
}

/* Of several entries one is chosen, and which is the driver's affair: the largest counts. */
static void larger_of(struct harp_image *out, uint64_t variables, uint64_t code)
{
    out->variables = variables > out->variables ? variables : out->variables;
    out->code = code > out->code ? code : out->code;
}

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

/* A kernel as it is loaded: with all functions of the module, as it may call them. */
#define CODE_ALIGN 256u

static uint64_t loaded(uint64_t bytes)
{
    return (bytes + CODE_ALIGN - 1) / CODE_ALIGN * CODE_ALIGN;
}

static void add_kernel(struct harp_image *out, const char *name, size_t n, uint64_t bytes)
{
    if (out->n_kernels == out->room) {
        size_t room = out->room != 0 ? 2 * out->room : 16;
        struct harp_kernel *more = realloc(out->kernels, room * sizeof *more);
        if (more == NULL) {
            out->known = false;
            return;
        }
        out->kernels = more;
        out->room = room;
    }
    out->kernels[out->n_kernels++] = (struct harp_kernel){name_hash(name, n), bytes};
}

/* Bodies of kernels and functions, as the tokens of a module go by. */
struct bodies {
    const char *name, *begin; /* of the kernel whose body is next, or runs */
    size_t n;
    int depth;
    enum { NEITHER, KERNEL, FUNCTION } kind;
    uint64_t functions; /* bytes of text */
};

static void bodies_step(struct bodies *b, const char *s, size_t n, struct harp_image *out)
{
    if (is(s, n, ".entry") || is(s, n, ".func")) {
        b->kind = is(s, n, ".entry") ? KERNEL : FUNCTION;
        b->name = skip(s + n);
        b->n = token(b->name);
    } else if (*s == '{' && b->depth++ == 0) {
        b->begin = s;
    } else if (*s == '}' && b->depth > 0 && --b->depth == 0) {
        if (b->kind == KERNEL)
            add_kernel(out, b->name, b->n, (uint64_t)(s - b->begin));
        else if (b->kind == FUNCTION)
            b->functions += (uint64_t)(s - b->begin);
        b->kind = NEITHER;
    } else if (*s == ';' && b->depth == 0) {
        b->kind = NEITHER; /* a declaration */
    }
}

/* Adds what a text has to `out`: variables, and kernels of which machine code takes half the bytes
 * of their text. */
static void read_ptx(const char *text, struct harp_image *out)
{
    uint64_t sum = 0;
    size_t first = out->n_kernels;
    bool external = false, pointer = false;
    struct bodies bodies = {.depth = 0};
    for (const char *s = skip(text); *s != '\0' && sum < MOST; s = skip(s)) {
        /* `.ptr .global` in a parameter list names a space, and `ld.global` is an instruction */
        bool space = is(s, token(s), ".global") || is(s, token(s), ".const");
        bool global = space && !pointer && (s == text || !word((unsigned char)s[-1]));
        size_t n = token(s);
        external = is(s, n, ".extern") || (external && *s == '.');
        pointer = is(s, n, ".ptr");
        bodies_step(&bodies, s, n, out);
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
    uint64_t code = 0;
    for (size_t i = first; i < out->n_kernels; i++) {
        out->kernels[i].bytes = loaded((out->kernels[i].bytes + bodies.functions) / 2 + 1);
        code += out->kernels[i].bytes;
    }
    larger_of(out, sum < MOST ? sum : MOST, code);
}

/* --- objects ---------------------------------------------------------------------------------- */

static bool begins(const char *name, const char *prefix)
{
    return strncmp(name, prefix, strlen(prefix)) == 0;
}

static void read_elf(const unsigned char *image, uint64_t most, struct harp_image *out)
{
    Elf64_Ehdr head;
    Elf64_Shdr section, names;
    uint64_t variables = 0, code = 0;
    if (most != 0 && most < sizeof head)
        return;
    memcpy(&head, image, sizeof head);
    if (head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_shentsize != sizeof section ||
        head.e_shstrndx >= head.e_shnum ||
        (most != 0 && (head.e_shoff > most || head.e_shnum * sizeof section > most - head.e_shoff)))
        return;
    const unsigned char *table = image + head.e_shoff;
    memcpy(&names, table + head.e_shstrndx * sizeof names, sizeof names);
    if (most != 0 && (names.sh_offset > most || names.sh_size > most - names.sh_offset))
        return;
    const char *strings = (const char *)image + names.sh_offset;
    if (names.sh_size == 0 || strings[names.sh_size - 1] != '\0')
        return; /* no table of strings */
    for (unsigned i = 0; i < head.e_shnum; i++) {
        memcpy(&section, table + i * sizeof section, sizeof section);
        const char *name = section.sh_name < names.sh_size ? strings + section.sh_name : "";
        uint64_t bytes = section.sh_size < MOST ? section.sh_size : MOST;
        if (begins(name, ".nv.global") || begins(name, ".nv.constant3")) { /* .init as well */
            variables = variables + bytes < MOST ? variables + bytes : MOST;
        } else if (begins(name, ".text.")) {
            add_kernel(out, name + 6, strlen(name + 6), loaded(bytes));
            code = code + loaded(bytes) < MOST ? code + loaded(bytes) : MOST;
        }
    }
    larger_of(out, variables, code);
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
static void read_fat(const unsigned char *image, uint64_t size, struct harp_image *out)
{
    struct fat_head head;
    if (size < sizeof head)
        return;
    memcpy(&head, image, sizeof head);
    if (head.head_bytes > size)
        return;
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
        if (e.kind == 2 && e.payload_bytes > SELFMAG && is_elf(payload))
            read_elf(payload, e.payload_bytes, out);
        else if (e.kind == 1 && memchr(payload, '\0', e.payload_bytes) != NULL &&
                 strstr((const char *)payload, ".version") != NULL)
            read_ptx((const char *)payload, out);
        else
            out->known = false;
        at = payload + e.payload_bytes;
    }
}

void harp_image_read(const void *image, struct harp_image *out)
{
    uint32_t magic;
    *out = (struct harp_image){.known = true};
    memcpy(&magic, image, sizeof magic); /* an image is longer than four bytes, or no image */
    if (magic == 0x466243b1u) { /* the wrapper of a linked fat binary: magic, version, data */
        const unsigned char *data;
        memcpy(&data, (const char *)image + 8, sizeof data);
        if (data != NULL)
            harp_image_read(data, out);
    } else if (magic == 0xba55ed50u) {
        read_fat(image, UINT64_MAX, out);
    } else if (is_elf(image)) {
        read_elf(image, 0, out);
    } else {
        read_ptx(image, out);
    }
}

void harp_image_read_file(const void *content, uint64_t size, struct harp_image *out)
{
    uint32_t magic;
    *out = (struct harp_image){.known = true};
    if (size < sizeof magic)
        return;
    memcpy(&magic, content, sizeof magic);
    if (magic == 0x466243b1u)
        out->known = false;
    else if (magic == 0xba55ed50u)
        read_fat(content, size, out);
    else if (is_elf(content))
        read_elf(content, size, out);
    else
        read_ptx(content, out);
}

void harp_image_free(struct harp_image *image)
{
    free(image->kernels);
    *image = (struct harp_image){.known = false};
}

struct harp_kernel *harp_image_kernel(const struct harp_image *image, const char *name)
{
    struct harp_kernel *found = NULL;
    uint64_t hash = name_hash(name, strlen(name));
    for (size_t i = 0; i < image->n_kernels; i++) /* a fat binary has it more than once */
        if (image->kernels[i].name == hash &&
            (found == NULL || image->kernels[i].bytes > found->bytes))
            found = &image->kernels[i];
    return found;
}

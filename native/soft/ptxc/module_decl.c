/* SPDX-License-Identifier: Apache-2.0
 *
 * Declarations, of modules as of bodies: constant expressions, types, dimensions, initialisers.
 */
#include "soft/ptxc/module.h"

#include <string.h>

const char *reader_name(struct module_reader *reader)
{
    if (reader->token.kind != TOK_WORD)
        reader_fail(reader, "expected a name");
    char *name = job_text(reader->module->job, reader->token.text, reader->token.bytes);
    reader_next(reader);
    return name;
}

uint32_t reader_count(struct module_reader *reader)
{
    uint64_t value = reader->token.value;
    if (reader->token.kind != TOK_INT || value > INT32_MAX)
        reader_fail(reader, "expected a small number");
    reader_next(reader);
    return (uint32_t)value;
}

/* ------------------------------------------------------------------ constant expressions ------ */

static uint64_t read_binary(struct module_reader *reader, int level, int depth);

static uint64_t read_unary(struct module_reader *reader, int depth)
{
    if (depth > 64)
        reader_fail(reader, "expected a simpler expression");
    if (reader_take(reader, '-'))
        return 0 - read_unary(reader, depth + 1);
    if (reader_take(reader, '+'))
        return read_unary(reader, depth + 1);
    if (reader_take(reader, '~'))
        return ~read_unary(reader, depth + 1);
    if (reader_take(reader, '!'))
        return !read_unary(reader, depth + 1);
    if (reader_take(reader, '(')) {
        /* A cast, (.s64) or (.u64), changes no bits. */
        if (reader->token.kind == TOK_DOT) {
            reader_next(reader);
            reader_expect(reader, ')');
            return read_unary(reader, depth + 1);
        }
        uint64_t value = read_binary(reader, 0, depth + 1);
        reader_expect(reader, ')');
        return value;
    }
    if (reader->token.kind != TOK_INT)
        reader_fail(reader, "expected a constant");
    uint64_t value = reader->token.value;
    reader_next(reader);
    return value;
}

static const char *const binary_ops[] = {"|", "^", "&", "<<", ">>", "+", "-", "*", "/", "%"};
static const int binary_levels[] = {0, 1, 2, 3, 3, 4, 4, 5, 5, 5};

static int peek_binary(struct module_reader *reader)
{
    if (reader->token.kind != TOK_PUNCT)
        return -1;
    for (int i = 0; i < (int)(sizeof(binary_ops) / sizeof(binary_ops[0])); i++) {
        const char *op = binary_ops[i];
        if (reader->token.punct != op[0])
            continue;
        if (!op[1] || (reader->lexer.at < reader->lexer.end && *reader->lexer.at == op[1]))
            return i;
    }
    return -1;
}

static uint64_t read_binary(struct module_reader *reader, int level, int depth)
{
    uint64_t left =
        level > 5 ? read_unary(reader, depth + 1) : read_binary(reader, level + 1, depth + 1);
    if (level > 5)
        return left;
    for (int op; (op = peek_binary(reader)) >= 0 && binary_levels[op] == level;) {
        reader_next(reader);
        if (binary_ops[op][1])
            reader_next(reader);
        uint64_t right = read_binary(reader, level + 1, depth + 1);
        switch (binary_ops[op][0]) {
        case '|':
            left |= right;
            break;
        case '^':
            left ^= right;
            break;
        case '&':
            left &= right;
            break;
        case '<':
            left = right < 64 ? left << right : 0;
            break;
        case '>':
            left = right < 64 ? left >> right : 0;
            break;
        case '+':
            left += right;
            break;
        case '-':
            left -= right;
            break;
        case '*':
            left *= right;
            break;
        default:
            if (!right)
                reader_fail(reader, "expected a divisor other than 0");
            left = binary_ops[op][0] == '/' ? left / right : left % right;
        }
    }
    return left;
}

uint64_t reader_constant(struct module_reader *reader)
{
    return read_binary(reader, 0, 0);
}

/* --------------------------------------------------------------------------- declarations ----- */

struct init_writer {
    struct module_reader *reader;
    struct ptx_decl *decl;
    uint64_t room;   /* bytes allocated */
    uint64_t row[4]; /* bytes of one element of dimension i - 1 */
    uint32_t dims;
};

static void init_put(struct init_writer *w, uint64_t value, uint32_t bytes)
{
    struct ptx_decl *d = w->decl;
    if (d->init_bytes + bytes > d->bytes)
        reader_fail(w->reader, "expected no more initialisers");
    if (d->init_bytes + bytes > w->room) {
        w->room = w->room ? w->room * 2 : 64;
        uint8_t *more = job_new(w->reader->module->job, (size_t)w->room, 1);
        if (d->init_bytes)
            memcpy(more, d->init, (size_t)d->init_bytes);
        d->init = more;
    }
    for (uint32_t i = 0; i < bytes; i++)
        d->init[d->init_bytes++] = (uint8_t)(i < 8 ? value >> (8 * i) : 0);
}

static void init_value(struct init_writer *w)
{
    struct module_reader *reader = w->reader;
    struct ptx_decl *d = w->decl;
    uint32_t bytes = ptx_types[d->type].bytes;
    bool negative = false;
    struct module_reader before = *reader;
    while (reader->token.kind == TOK_PUNCT && reader->token.punct == '-') {
        negative = !negative;
        reader_next(reader);
    }
    if (reader->token.kind == TOK_F32 || reader->token.kind == TOK_F64) {
        uint64_t bits = reader->token.value;
        bool single = reader->token.kind == TOK_F32;
        if (single && d->type == TY_F64) {
            float f;
            uint32_t low = (uint32_t)bits;
            memcpy(&f, &low, 4);
            double g = (double)f;
            memcpy(&bits, &g, 8);
        } else if (!single && d->type == TY_F32) {
            double g;
            memcpy(&g, &bits, 8);
            float f = (float)g;
            uint32_t low;
            memcpy(&low, &f, 4);
            bits = low;
        }
        if (negative)
            bits ^= bytes == 8 ? 1ull << 63 : 1ull << 31;
        reader_next(reader);
        init_put(w, bits, bytes);
        return;
    }
    if (reader->token.kind == TOK_WORD) {
        bool generic = ptx_token_is(&reader->token, TOK_WORD, "generic");
        if (generic) {
            reader_next(reader);
            reader_expect(reader, '(');
        }
        struct ptx_symbol *s = module_find(reader->module, reader->token.text, reader->token.bytes);
        if (reader->token.kind != TOK_WORD || !s || negative)
            reader_fail(reader, "expected the name of a variable or function");
        reader_next(reader);
        if (generic)
            reader_expect(reader, ')');
        uint64_t addend = 0;
        if (reader->token.kind == TOK_PUNCT &&
            (reader->token.punct == '+' || reader->token.punct == '-'))
            addend = reader_constant(reader);
        if (bytes != 8)
            reader_fail(reader, "expected an address in a 64-bit element");
        if (s->func) {
            init_put(w, PTX_FUNC_ADDRESS(s->func->id) + addend, bytes);
            return;
        }
        if (s->var->where != IN_GLOBAL && s->var->where != IN_CONST)
            reader_fail(reader, "expected a .global or .const variable's address");
        d->relocs = job_grow(reader->module->job, d->relocs, d->reloc_count, &d->reloc_room,
                             sizeof(*d->relocs));
        d->relocs[d->reloc_count++] =
            (struct module_reloc){.offset = d->init_bytes, .addend = addend, .symbol = s};
        init_put(w, 0, bytes);
        return;
    }
    *reader = before;
    init_put(w, reader_constant(reader), bytes);
}

/* Behind '{' up to and with '}'. What an inner list leaves out of its row is zero. */
static void init_list(struct init_writer *w, uint32_t depth)
{
    struct module_reader *reader = w->reader;
    uint64_t start = w->decl->init_bytes;
    if (depth >= w->dims)
        reader_fail(reader, "expected fewer nested braces");
    if (!reader_take(reader, '}')) {
        do {
            if (reader_take(reader, '{'))
                init_list(w, depth + 1);
            else
                init_value(w);
        } while (reader_take(reader, ','));
        reader_expect(reader, '}');
    }
    uint64_t bytes = w->decl->init_bytes - start;
    if (!depth)
        return;
    if (bytes > w->row[depth])
        reader_fail(reader, "expected no more initialisers in the row before");
    if (w->row[depth] - bytes > 1u << 20)
        reader_fail(reader, "expected more initialisers in the row before");
    while (w->decl->init_bytes - start < w->row[depth])
        init_put(w, 0, 1);
}

void reader_decl(struct module_reader *reader, struct ptx_decl *prefix, bool parameter,
                 void (*each)(void *arg, struct ptx_decl *decl), void *arg)
{
    uint32_t lanes = 1, align = 0;
    bool managed = false;
    enum ptx_type type = TY_NONE;
    while (reader->token.kind == TOK_DOT) {
        if (ptx_token_is(&reader->token, TOK_DOT, "align")) {
            reader_next(reader);
            uint32_t value = reader_count(reader);
            if (!value || value & (value - 1) || value > 1u << 20)
                reader_fail(reader, "expected an alignment that is a power of two");
            /* Behind .ptr it speaks of what the pointer points to. */
            if (type == TY_NONE)
                align = value;
            continue;
        }
        enum ptx_type named = ptx_type_of(reader->token.text, reader->token.bytes);
        if (ptx_token_is(&reader->token, TOK_DOT, "v2"))
            lanes = 2;
        else if (ptx_token_is(&reader->token, TOK_DOT, "v4"))
            lanes = 4;
        else if (ptx_token_is(&reader->token, TOK_DOT, "attribute")) {
            reader_next(reader);
            reader_expect(reader, '(');
            while (!reader_take(reader, ')')) {
                if (reader->token.kind == TOK_END || reader->token.kind == TOK_BAD)
                    reader_fail(reader, "expected `)`");
                managed = managed || ptx_token_is(&reader->token, TOK_DOT, "managed");
                reader_next(reader);
            }
            continue;
        } else if (named != TY_NONE)
            type = named;
        reader_next(reader);
    }
    if (type == TY_NONE)
        reader_fail(reader, "expected a type");
    if (managed && prefix->where != IN_GLOBAL)
        reader_fail(reader, "only variables in .global can be managed");
    if (type == TY_PRED && prefix->where != IN_REG)
        reader_fail(reader, "expected a type that has a size");
    do {
        struct ptx_decl decl = *prefix;
        uint32_t unit = ptx_types[type].bytes * lanes;
        decl.type = type;
        decl.managed = managed;
        decl.align = align > unit ? align : align ? align : unit;
        decl.line = reader->token.line;
        decl.name = reader_name(reader);
        decl.bytes = unit;
        uint64_t dim[4];
        uint32_t dims = 0;
        while (reader_take(reader, '[')) {
            if (dims == 4)
                reader_fail(reader, "expected at most 4 dimensions");
            if (reader_take(reader, ']')) {
                decl.flexible = true;
                dim[dims++] = 1;
                continue;
            }
            uint64_t n = reader_constant(reader);
            if (n > (1ull << 46) / (decl.bytes ? decl.bytes : 1))
                reader_fail(reader, "expected a smaller array");
            decl.bytes *= n;
            dim[dims++] = n;
            reader_expect(reader, ']');
        }
        if (decl.flexible)
            decl.bytes = 0;
        if (!parameter && reader_take(reader, '=')) {
            struct init_writer w = {.reader = reader, .decl = &decl, .dims = dims ? dims : 1};
            uint64_t row = unit;
            for (uint32_t i = dims; i-- > 0; row *= dim[i])
                w.row[i + 1 < 4 ? i + 1 : 0] = row;
            if (prefix->where != IN_GLOBAL && prefix->where != IN_CONST)
                reader_fail(reader, "expected no initialiser in this state space");
            if (decl.flexible)
                decl.bytes = 1ull << 40;
            if (reader_take(reader, '{'))
                init_list(&w, 0);
            else
                init_value(&w);
            if (decl.flexible) {
                decl.bytes = decl.init_bytes;
                decl.flexible = false;
            }
        }
        each(arg, &decl);
    } while (!parameter && reader_take(reader, ','));
}

struct decl_list {
    struct job *job;
    struct ptx_decl *items;
    uint32_t count, room;
};

static void list_add(void *arg, struct ptx_decl *decl)
{
    struct decl_list *list = arg;
    list->items = job_grow(list->job, list->items, list->count, &list->room, sizeof(*decl));
    list->items[list->count++] = *decl;
}

void reader_params(struct module_reader *reader, bool registers, struct ptx_decl **items,
                   uint32_t *count)
{
    struct decl_list list = {.job = reader->module->job};
    if (!reader_take(reader, ')')) {
        do {
            struct ptx_decl prefix = {.where = IN_PARAM};
            if (registers && ptx_token_is(&reader->token, TOK_DOT, "reg"))
                prefix.where = IN_REG;
            else if (!ptx_token_is(&reader->token, TOK_DOT, "param"))
                reader_fail(reader, "expected .param");
            reader_next(reader);
            reader_decl(reader, &prefix, true, list_add, &list);
        } while (reader_take(reader, ','));
        reader_expect(reader, ')');
    }
    *items = list.items;
    *count = list.count;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * What emitters write with and complain by, and what they ask of an instruction.
 */
#include "soft/ptxc/emit.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { C_TEXT_MAX = 128 << 20 };

static void append(struct emitter *e, struct text *text, const char *format, va_list args)
{
    for (;;) {
        size_t left = text->room - text->bytes;
        va_list again;
        va_copy(again, args);
        int n = vsnprintf(text->at ? text->at + text->bytes : NULL, left, format, again);
        va_end(again);
        if (n >= 0 && (size_t)n < left) {
            text->bytes += (size_t)n;
            return;
        }
        size_t room = text->room * 2 + (size_t)(n < 0 ? 255 : n) + 1;
        /* A table of n targets at n places is n * n cases. */
        if (text->bytes > C_TEXT_MAX)
            job_fail(e->job, PTXC_UNSUPPORTED, "kernel %s: more than %d MiB of C",
                     e->kernel ? e->kernel->name : "?", C_TEXT_MAX >> 20);
        char *more = job_new(e->job, room, 1);
        if (text->bytes)
            memcpy(more, text->at, text->bytes);
        text->at = more;
        text->room = room;
    }
}

void put(struct emitter *e, const char *format, ...)
{
    va_list args;
    if (e->survey)
        return;
    va_start(args, format);
    append(e, &e->out, format, args);
    va_end(args);
}

void put_to(struct emitter *e, struct text *text, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    append(e, text, format, args);
    va_end(args);
}

const char *say(struct emitter *e, const char *format, ...)
{
    struct text text = {0};
    va_list args;
    va_start(args, format);
    append(e, &text, format, args);
    va_end(args);
    const char *out = text.at;
    return out;
}

static _Noreturn void complain(struct emitter *e, int code, const char *why)
{
    uint32_t bytes = e->in->bytes > 120 ? 120 : e->in->bytes;
    char text[121];
    for (uint32_t i = 0; i < bytes; i++)
        text[i] = e->in->text[i] < 0x20 ? ' ' : e->in->text[i];
    text[bytes] = 0;
    job_fail(e->job, code, "kernel %s: line %u: instruction `%s`: %s", e->kernel->name, e->in->line,
             text, why);
}

void refuse(struct emitter *e, const char *why)
{
    complain(e, PTXC_UNSUPPORTED, why);
}

void invalid(struct emitter *e, const char *why)
{
    complain(e, PTXC_INVALID, why);
}

const char *where(struct emitter *e)
{
    char mods[160] = "";
    for (uint32_t i = 0; i < e->in->mod_count; i++) {
        size_t at = strlen(mods);
        snprintf(mods + at, sizeof(mods) - at, ".%s", e->in->mods[i]);
    }
    return say(e, "\"%s: line %u: %s%s\"", e->kernel->name, e->in->line, e->in->op, mods);
}

bool has_mod(const struct ptx_instr *in, const char *mod)
{
    for (uint32_t i = 0; i < in->mod_count; i++)
        if (strcmp(in->mods[i], mod) == 0)
            return true;
    return false;
}

bool is_op(const struct ptx_instr *in, const char *op)
{
    return strcmp(in->op, op) == 0;
}

bool meets(const struct ptx_instr *in)
{
    static const char *const names[] = {"bar",   "barrier", "shfl",       "vote", "match",
                                        "redux", "elect",   "activemask", "mma",  "mbarrier"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (is_op(in, names[i]))
            return true;
    return false;
}

void want_operands(struct emitter *e, uint32_t least, uint32_t most)
{
    if (e->in->op_count < least)
        invalid(e, "too few operands");
    if (e->in->op_count > most)
        invalid(e, "too many operands");
}

enum ptx_type type_mod(const struct ptx_instr *in, uint32_t n)
{
    for (uint32_t i = 0; i < in->mod_count; i++) {
        enum ptx_type t = ptx_type_of(in->mods[i], strlen(in->mods[i]));
        if (t != TY_NONE && n-- == 0)
            return t;
    }
    return TY_NONE;
}

/* ---------------------------------------------------------------------------- registers ------- */

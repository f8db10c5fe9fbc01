/* SPDX-License-Identifier: Apache-2.0 */
#include "ptxc_fuzz_text.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "soft/ptxc/emit.h"

uint64_t fuzz_state;

uint32_t draw(uint32_t below)
{
    fuzz_state = fuzz_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(fuzz_state >> 33) % below;
}

#define PICK(array) ((array)[draw((uint32_t)(sizeof(array) / sizeof((array)[0])))])

/* ------------------------------------------------------------------------------- whole ---------
 */

static const char head[] =
    ".version 8.5\n.target sm_90a, debug\n.address_size 64\n"
    ".file 1 \"a.cu\"\n.extern .shared .align 16 .b8 dyn[];\n"
    ".global .u32 g = 7;\n.visible .global .align 8 .u64 t[2] = {g, generic(g)+4};\n"
    ".const .align 4 .f32 c[2][2] = {{1.5, 0f3F800000}, {-2.0}};\n"
    ".func (.param .b32 r) twice(.param .b32 x) { .reg .b32 %a; ld.param.b32 %a, [x];\n"
    " .reg .b64 %b; mov.b64 %b, x; ld.param.b32 %a, [%b];\n"
    " shl.b32 %a, %a, 1; st.param.b32 [r], %a; ret; }\n"
    ".extern .func (.param .b32 r) vprintf(.param .b64 a, .param .b64 b);\n"
    "/* a comment */ .visible .entry k(.param .u64 .ptr .global .align 8 p, .param .align 8 .b8 "
    "s[24])\n.maxntid 32, 2, 1 .minnctapersm 2\n{\n"
    " .reg .pred %q<4>; .reg .b16 %h<4>; .reg .b32 %r<20>; .reg .f32 %f<8>; .reg .b64 %d<8>;\n"
    " .reg .f64 %g<4>; .local .align 8 .b8 depot[16]; .shared .align 4 .b8 box[64];\n"
    " ld.param.u64 %d1, [p];\n";

/* What no row says by itself: operands that only a function knows, blocks, labels, calls. */
static const char *const samples[] = {
    "cvta.to.global.u64 %d1, %d1;",
    "mov.u32 %r1, %tid.x; mov.b64 %d2, {%r1, %r2}; mov.b64 {%r1, _}, %d2; mov.u64 %d3, t;",
    "LA: setp.lt.and.f32 %q1|%q2, %f3, 1.0, !%q3; @%q1 bra LA;",
    "ld.volatile.global.v2.f32 {%f1, %f2}, [%d1+8]; st.global.v4.b32 [%d1], {%r1, %r2, %r3, 7};",
    "ld.param.v2.u32 {%r1, %r2}, [s+8]; ld.const.f32 %f1, [c+4]; ld.global.nc.u8 %h1, [%d1];",
    "st.local.b32 [depot+4], %r3; ld.local.u64 %d2, [depot+8]; @!%q2 st.shared.b32 [box], %r1;",
    "{ .reg .b32 %r1; .param .b32 i; .param .b32 o; st.param.b32 [i+0], 5;\n"
    "call.uni (o), twice, (i); ld.param.b32 %r1, [o]; }",
    "{ TT: .branchtargets LB, LC; brx.idx %r1, TT; LB: add.u32 %r1, %r1, 1; LC: }",
    "{ PP: .callprototype (.param .b32 _) _ (.param .b32 _); .param .b32 i; .param .b32 o;\n"
    "mov.u64 %d4, twice; call (o), %d4, (i), PP; }",
    "{ .param .b64 f; .param .b64 a; .param .b32 o; st.param.b64 [f], %d1; st.param.b64 [a], %d2;\n"
    "call.uni (o), vprintf, (f, a); ld.param.b32 %r1, [o]; }",
    "atom.shared.add.u32 %r4, [box], 1; atom.global.cas.b64 %d3, [%d1], %d2, %d3;",
    "atom.acq_rel.gpu.global.exch.b32 %r1, [%d1], %r2; red.global.max.s32 [%d1+4], %r2;",
    "atom.global.add.noftz.f16x2 %r1, [%d1], %r2; red.global.add.f32 [%d1], %f1;",
    "shfl.sync.down.b32 %r3|%q1, %r2, 1, 31, -1; vote.sync.ballot.b32 %r1, %q1, -1;",
    "vote.sync.all.pred %q1, !%q2, %r1; match.any.sync.b32 %r1, %r2, -1; activemask.b32 %r1;",
    "redux.sync.add.u32 %r1, %r2, -1; elect.sync %r1|%q1, -1;",
    "bar.sync 0; barrier.sync 1, 64; bar.red.popc.u32 %r1, 0, %q1; bar.arrive 2, 64;",
    "fence.acq_rel.gpu; membar.gl; nanosleep.u32 20; trap;",
    "lop3.b32 %r5, %r1, %r2, %r3, 0x96; bfe.u32 %r6, %r5, 1, 2; prmt.b32 %r1, %r2, %r3, 0x3210;",
    "cvt.rn.f16.f32 %h1, %f3; cvt.rzi.s32.f64 %r1, %g1; cvt.sat.u8.s32 %h1, %r2;",
    "cvt.rn.bf16x2.f32 %r1, %f1, %f2; cvt.rni.f32.f32 %f1, %f2; cvt.u64.u32 %d1, %r1;",
    "cp.async.ca.shared.global [box], [%d1], 16; cp.async.commit_group; cp.async.wait_group 0;",
    "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f1, %f2, %f3, %f4}, {%r1, %r2}, {%r3}, "
    "{%f1, %f2, %f3, %f4};",
    "isspacep.shared %q1, %d1; selp.b32 %r1, %r2, 5, %q1; slct.s32.f32 %r1, %r2, %r3, %f1;",
    "set.lt.u32.f32 %r1, %f1, %f2; setp.eq.u32 %q1, %r1, 0; and.pred %q1, %q2, %q3;",
    ".loc 1 2 3\n .pragma \"nounroll\"; mov.u32 %r7, (1 << 4) | ~3 % 5;",
    "{ .shared .align 8 .b64 m; mbarrier.init.shared.b64 [m], 32;\n"
    "mbarrier.arrive.shared.b64 %d5, [m]; mbarrier.try_wait.shared.b64 %q1, [m], %d5; }",
    "barrier.cluster.arrive; barrier.cluster.wait; mapa.u64 %d2, %d3, 0;",
    "stacksave.u64 %d6; alloca.u64 %d7, %d6, 16; stackrestore.u64 %d6;",
    "cvt.rn.satfinite.e4m3x2.f32 %h1, %f1, %f2; cvt.rn.f16x2.e4m3x2 %r1, %h1;",
    "prefetch.global.L2 [%d1]; prefetchu.L1 [%d1]; applypriority.global.L2::evict_normal [%d1], "
    "128;",
    "dp4a.u32.s32 %r1, %r2, %r3, %r4; dp2a.lo.u32.u32 %r1, %r2, %r3, %r4; pmevent 3;",
    "LD: setp.ne.s32 %q1, %r1, 0; @%q1 bra LE; bra.uni LE; LE: ldu.global.u32 %r1, [%d1];",
    "add.cc.u32 %r1, %r2, %r3; addc.u32 %r4, %r5, 0; mad.lo.cc.u32 %r1, %r1, %r2, %r3;",
};

static void add(struct fuzz_text *text, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text->at + text->bytes, TEXT_ROOM - text->bytes, format, args);
    va_end(args);
    if (n > 0 && (size_t)n < TEXT_ROOM - text->bytes)
        text->bytes += (size_t)n;
}

/* One of the words of a list; its length. */
static size_t pick_word(const char **list, size_t bytes, char separator)
{
    uint32_t words = 1;
    for (size_t i = 0; i < bytes; i++)
        words += (*list)[i] == separator;
    for (uint32_t skip = draw(words); skip; skip--) {
        size_t past = (size_t)((const char *)memchr(*list, separator, bytes) - *list) + 1;
        *list += past;
        bytes -= past;
    }
    const char *end = memchr(*list, separator, bytes);
    return end ? (size_t)(end - *list) : bytes;
}

static void add_register(struct fuzz_text *text, const char *type, size_t bytes)
{
    enum ptx_type t = ptx_type_of(type, bytes);
    uint32_t size = t == TY_NONE ? 4 : ptx_types[t].bytes, n = 1 + draw(3);
    if (t == TY_PRED)
        add(text, "%%q%u", n);
    else if (t == TY_F32)
        add(text, "%%f%u", n);
    else if (t == TY_F64)
        add(text, "%%g%u", n);
    else
        add(text, "%%%c%u", size <= 2 ? 'h' : size == 4 ? 'r' : 'd', n);
}

static const char *twice_as_wide(const char *type)
{
    return strncmp(type, "u16", 3) == 0   ? "u32"
           : strncmp(type, "s16", 3) == 0 ? "s32"
           : *type == 'u'                 ? "u64"
                                          : "s64";
}

static void add_operands(struct fuzz_text *text, const struct ptx_row *row, const char *type,
                         size_t type_bytes)
{
    const char *comma = " ";
    for (const char *at = row->operands; *at;) {
        char role = *at++;
        at += *at == '~';
        const char *t = role == 'p' ? "pred" : type;
        size_t bytes = role == 'p' ? 4 : type_bytes;
        if (*at == ':') {
            t = at + 1;
            bytes = strcspn(t, " ");
            at += 1 + bytes;
            if (bytes == 1) {
                t = twice_as_wide(type);
                bytes = 3;
            }
        }
        at += *at == ' ';
        add(text, "%s", comma);
        comma = ", ";
        if (role == 'n')
            add(text, "%u", draw(4));
        else
            add_register(text, t, bytes);
    }
}

static bool add_row(struct fuzz_text *text, int index)
{
    const struct ptx_row *row = &ptx_rows[index];
    if (strchr(row->operands, '*') || strchr(row->types, '*') || strchr(row->mods, '*'))
        return false;
    const char *type = row->types;
    size_t type_bytes = *type ? pick_word(&type, strlen(type), ' ') : 0;
    add(text, draw(8) ? "    %s" : "    @%%q1 %s", row->op);
    for (const char *at = row->mods; *at;) {
        size_t bytes = strcspn(at, " ");
        bool optional = bytes && at[bytes - 1] == '?';
        const char *word = at;
        size_t n = pick_word(&word, bytes - optional, '|');
        if (!optional || draw(3) == 0)
            add(text, ".%.*s", (int)n, word);
        at += bytes;
        at += strspn(at, " ");
    }
    if (type_bytes)
        add(text, ".%.*s", (int)type_bytes, type);
    add_operands(text, row, type, type_bytes);
    add(text, ";\n");
    return true;
}

void text_make(struct fuzz_text *text)
{
    text->bytes = 0;
    text->row_count = 0;
    add(text, "%s", head);
    for (uint32_t i = 1 + draw(LINES); i; i--) {
        int row = (int)draw((uint32_t)ptx_row_count);
        if (draw(5) && add_row(text, row))
            text->rows[text->row_count++] = row;
        else
            add(text, " %s\n", PICK(samples));
    }
    add(text, " st.global.v4.b32 [%%d1], {%%r1, %%r2, %%r3, 7}; ret;\n}\n");
}

/* ------------------------------------------------------------------------------- damage --------
 */

static const char *const words[] = {
    ";",          "{",         "}",          "(",    ")",       "[",
    "]",          ",",         "<",          ">",    "@",       "!",
    "|",          "-",         "%r1",        "%d1",  "%f1",     "%q1",
    "_",          "0",         "4294967296", "-1",   "0f3F80",  "0d00",
    "1e999",      ".b32",      ".v4",        ".reg", ".param",  ".shared",
    ".align",     ".entry k2", "ret",        "call", "bra",     "99999999999999999999",
    "\"",         "/*",        "//",         "\x01", ".global", ".f16x2",
    "bar.sync 0", "k",         "twice",      "t",    "box",     "\"; system(\"x\"); \"",
    ".u64",       ".sat",      ".rn",        ".cc",  ".s8",     ".b128",
};

static const char *const numbers[] = {
    "0",
    "1",
    "-1",
    "31",
    "65536",
    "2147483647",
    "4294967295",
    "4294967296",
    "1048576",
    "0x8000000000000000",
    "18446744073709551615",
    "1e309",
    "0f7fc00000",
    "0dfff0000000000000",
    "99999999999999999999999999",
};

static const char *const giants[] = {
    ".reg .b32 %%z<%s>;",           ".shared .align 8 .b8 zz[%s];", ".local .b8 zz[%s];",
    ".global .b8 zz[%s];",          ".global .u32 zz[%s] = {1};",   ".param .b8 zz[%s];",
    ".const .u64 zz[2][3][%s][4];", ".reg .v4 .f32 zz<%s>;",        ".maxntid %s, %s, %s",
};

static const char *const repeated[] = {".rn", ", %r1", "{", "}", "(", "1", "%r1, ", "x", ".b32 "};

static bool in_word(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           strchr("_$%.", c);
}

/* A token somewhere: where it starts, how long it is. */
static size_t token(const struct fuzz_text *text, size_t *bytes)
{
    size_t at = draw((uint32_t)text->bytes);
    while (at && in_word(text->at[at]) && in_word(text->at[at - 1]) && text->at[at])
        at--;
    size_t end = at + 1;
    while (end < text->bytes && text->at[at] && in_word(text->at[at]) && text->at[end] &&
           in_word(text->at[end]))
        end++;
    *bytes = end - at;
    return at;
}

static void replace(struct fuzz_text *text, size_t at, size_t bytes, const char *by, size_t n)
{
    if (text->bytes - bytes + n > TEXT_ROOM || text->bytes - bytes + n == 0)
        return;
    memmove(text->at + at + n, text->at + at + bytes, text->bytes - at - bytes);
    memcpy(text->at + at, by, n);
    text->bytes = text->bytes - bytes + n;
}

int text_damage(struct fuzz_text *text)
{
    static char piece[TEXT_ROOM];
    size_t bytes, more, at = token(text, &bytes), other = token(text, &more);
    int kind = (int)draw(KINDS);
    const char *word = PICK(words);
    switch (kind) {
    case 0: /* a byte */
        text->at[draw((uint32_t)text->bytes)] = (char)draw(256);
        break;
    case 1: /* cut out */
        bytes = 1 + draw(12);
        replace(text, at, bytes > text->bytes - at ? text->bytes - at : bytes, "", 0);
        break;
    case 2: /* the end is missing */
        if (draw(20) == 0)
            text->bytes = at + 1;
        break;
    case 3: /* a piece twice */
        more = 1 + draw(60);
        more = more > text->bytes - other ? text->bytes - other : more;
        memcpy(piece, text->at + other, more);
        replace(text, at, 0, piece, more);
        break;
    case 4: /* a word more */
        replace(text, at, 0, word, strlen(word));
        break;
    case 5: /* a word instead */
        replace(text, at, bytes, word, strlen(word));
        break;
    case 6: /* a token by another one of the text */
        memcpy(piece, text->at + other, more);
        replace(text, at, bytes, piece, more);
        break;
    case 7: /* two tokens change places: the later one first */
        if (at < other) {
            size_t t = at, n = bytes;
            at = other, bytes = more, other = t, more = n;
        }
        if (other + more > at)
            break;
        memcpy(piece, text->at + at, bytes);
        replace(text, at, bytes, text->at + other, more);
        replace(text, other, more, piece, bytes);
        break;
    case 8: /* a token less */
        replace(text, at, bytes, "", 0);
        break;
    case 9: /* a number blown up: the next one from here */
        while (at < text->bytes && (text->at[at] < '0' || text->at[at] > '9'))
            at++;
        word = PICK(numbers);
        for (bytes = 0; at + bytes < text->bytes && in_word(text->at[at + bytes]);)
            bytes++;
        replace(text, at, bytes, word, strlen(word));
        break;
    case 10: /* nested deeply */
        more = 1 + draw(draw(8) ? 40 : 20000);
        memset(piece, "{([-~!@<"[draw(8)], more);
        replace(text, at, 0, piece, more);
        break;
    case 11: /* huge */
        word = PICK(numbers);
        more = (size_t)snprintf(piece, sizeof(piece), PICK(giants), word, word, word);
        while (at && text->at[at - 1] != '\n')
            at--;
        replace(text, at, 0, piece, more);
        break;
    case 12: /* a word, more often than there is room for */
        word = PICK(repeated);
        more = strlen(word);
        for (uint32_t i = 1 + draw(draw(2) ? 30 : 200); i; i--)
            replace(text, at, 0, word, more);
        break;
    default: /* a line, many times */
        while (at && text->at[at - 1] != '\n')
            at--;
        for (bytes = 0; at + bytes < text->bytes && text->at[at + bytes] != '\n';)
            bytes++;
        memcpy(piece, text->at + at, bytes);
        for (uint32_t i = draw(draw(8) ? 3 : 60); i; i--)
            replace(text, at, 0, piece, bytes);
    }
    return kind;
}

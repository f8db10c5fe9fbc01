/* SPDX-License-Identifier: Apache-2.0
 *
 * Joining PTX texts, whole and damaged: the joined text is read as a module or refused in words,
 * and nothing is read past a text's end.
 */
#include "soft_test.h"

#include "soft/gpu/module_join.h"
#include "soft/ptxc/ptx_index.h"

#define HEAD   ".version 8.0\n.target sm_75\n.address_size 64\n"
#define ROUNDS 20000u

static const char one[] =
    HEAD ".file 1 \"a.cu\"\n.extern .func (.param .b32 o) twice(.param .b32 i);\n"
         ".extern .global .align 4 .u32 count;\n.global .align 4 .u32 own[2] = {1, 2};\n"
         ".global .u64 where = own, there = generic(own)+4;\n"
         ".func (.param .b32 o) add(.param .b32 i) .noreturn { .reg .b32 %r<3>; .reg .pred %p;\n"
         " ld.param.b32 %r0, [i]; @!%p add.u32 %r0, %r0, 1; add: st.param.b32 [o], %r0; ret; }\n"
         ".weak .func same() .pragma \"nounroll\"; { ret; }\n"
         "/* { ; */ .visible .entry k(.param .u64 p) .maxntid 32, 2, 1 // }\n{ .reg .b32 %r<4>;\n"
         " mov.u32 %r0, own; { .param .b32 i; .param .b32 o; st.param.b32 [i], %r0;\n"
         " call.uni (o), add, (i); ld.param.b32 %r1, [o]; call same; } ret; }\n"
         ".section .debug_str { L: .b8 1; }\n";
static const char two[] =
    HEAD ".visible .global .align 4 .u32 count;\n.global .align 4 .u32 own = 3;\n"
         ".func (.param .b32 o) add(.param .b32 i) { ret; }\n.weak .func same() { ret; }\n"
         ".visible .func (.param .b32 o) twice(.param .b32 i) { .reg .b32 %r<2>;\n"
         " mov.u32 %r1, own; st.param.b32 [o], %r1; ret; }\n";

static uint64_t seed = 20261125;

static uint32_t dice(size_t sides)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(seed >> 33) % (uint32_t)sides;
}

/* In memory of its own size. */
static struct soft_part part(const char *text, size_t bytes, const char *name)
{
    struct soft_part out = {.text = malloc(bytes + 1)};
    CHECK(out.text != NULL);
    memcpy(out.text, text, bytes);
    out.text[bytes] = '\0';
    snprintf(out.name, sizeof out.name, "%s", name);
    return out;
}

static int times(const char *text, const char *word)
{
    int count = 0;
    for (const char *at = text; (at = strstr(at, word)) != NULL; at++)
        count++;
    return count;
}

static void two_texts_become_one(void *arg)
{
    for (int order = 0; order < 2; order++) {
        struct soft_part parts[2] = {part(one, sizeof one - 1, "one"),
                                     part(two, sizeof two - 1, "two")};
        struct soft_part turned[2] = {parts[order], parts[1 - order]};
        struct ptx_index index;
        char why[256] = "";
        char *text = soft_ptx_join(turned, 2, HEAD, why, sizeof why);
        CHECK(text != NULL);
        int err = ptx_index_read(text, strlen(text), &index, why, sizeof why);
        if (err != 0)
            fprintf(stderr, "%s\n%s", why, text);
        CHECK_IS(0, err);
        CHECK_IS(1, index.entry_count);
        CHECK_IS(5, index.variable_count); /* count, own twice, where, there */
        CHECK_IS(1, times(text, ".version"));
        CHECK_IS(1, times(text, "same() "));
        /* the name is replaced where it means the function, not where it is an instruction */
        CHECK_IS(1, times(text, "add.u32 %r0"));
        CHECK_IS(1, times(text, order == 0 ? "(o), add$part0, (i)" : "(o), add$part1, (i)"));
        ptx_index_free(&index);
        free(text);
        free(parts[0].text);
        free(parts[1].text);
    }
}

static void damaged_texts_are_joined_or_refused(void *arg)
{
    static const char odd[] = ";{}()[],.=:@!\"/*\n\t 09a$%_\x80";
    unsigned joined = 0, refused = 0, read = 0;
    for (unsigned round = 0; round < ROUNDS; round++) {
        struct soft_part parts[2];
        for (int i = 0; i < 2; i++) {
            char text[sizeof one];
            size_t bytes = i == 0 ? sizeof one - 1 : sizeof two - 1;
            memcpy(text, i == 0 ? one : two, bytes);
            for (uint32_t hits = dice(4); hits > 0; hits--)
                text[dice(bytes)] = odd[dice(sizeof odd - 1)];
            if (dice(5) == 0)
                bytes = dice(bytes + 1);
            parts[i] = part(text, bytes, i == 0 ? "one" : "two");
        }
        char why[256] = "", reason[256];
        char *text = soft_ptx_join(parts, 2, HEAD, why, sizeof why);
        struct ptx_index index;
        CHECK(text != NULL || why[0] != '\0');
        joined += text != NULL;
        refused += text == NULL;
        if (text != NULL && ptx_index_read(text, strlen(text), &index, reason, sizeof reason) == 0)
            read++;
        if (text != NULL)
            ptx_index_free(&index);
        free(text);
        free(parts[0].text);
        free(parts[1].text);
    }
    CHECK(joined > ROUNDS / 2);
    CHECK(refused > 0);
    CHECK(read > ROUNDS / 50);
}

int main(void)
{
    test_run("two_texts_become_one", "tiny", "0", two_texts_become_one);
    test_run("damaged_texts_are_joined_or_refused", "tiny", "0",
             damaged_texts_are_joined_or_refused);
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * A PTX module's outside: functions with their parameters and where their bodies lie, variables
 * with their initialisers. Bodies are only scanned (declarations and names used in them), and only
 * when asked: a module may hold hundreds of kernels in 20 MB of text.
 */
#ifndef HARP_PTXC_MODULE_H
#define HARP_PTXC_MODULE_H

#include "soft/ptxc/job.h"
#include "soft/ptxc/lex.h"
#include "soft/ptxc/type.h"

enum ptx_where { IN_NONE, IN_REG, IN_PARAM, IN_GLOBAL, IN_CONST, IN_SHARED, IN_LOCAL };

struct ptx_decl { /* a variable or parameter */
    const char *name;
    enum ptx_where where;
    enum ptx_type type;
    uint32_t align;
    uint64_t bytes;
    bool flexible; /* [] */
    bool external, visible;
    bool managed; /* .attribute(.managed) */
    bool taken;   /* a function's parameter whose address is used: it has a place in the frame */
    uint32_t line;
    /* initialiser */
    uint8_t *init;
    uint64_t init_bytes;
    struct module_reloc {
        uint64_t offset, addend;
        struct ptx_symbol *symbol;
    } *relocs;
    uint32_t reloc_count, reloc_room;
    uint32_t ordinal; /* module variables: place in the index; shared: offset once laid out */
};

struct ptx_symbol {
    const char *name;
    struct ptx_symbol *chain;
    struct ptx_func *func; /* one of func, var */
    struct ptx_decl *var;
    uint32_t stamp;
};

struct ptx_func {
    const char *name;
    struct ptx_func *next;
    uint32_t id; /* from 1, in order of first mention */
    bool entry, has_body;
    struct ptx_decl *params, *rets;
    uint32_t param_count, ret_count;
    uint32_t reqntid[3], maxntid[3], minnctapersm, maxnreg;
    bool cluster;          /* wants thread block clusters */
    struct ptx_lexer body; /* behind its '{' */
    uint32_t line;
    const char *clash; /* text of an unsupported directive, or NULL */
    /* filled by module_scan */
    bool scanned, reached;
    struct ptx_symbol **refs;
    uint32_t ref_count, ref_room;
    struct ptx_decl *shared; /* .shared declared inside, in order */
    uint32_t shared_count, shared_room;
    uint64_t local_bytes;
    uint32_t registers; /* 32-bit units declared */
};

enum { MODULE_BUCKETS = 4096 };

struct ptx_module {
    struct job *job;
    struct ptx_symbol *buckets[MODULE_BUCKETS];
    struct ptx_func *funcs, *last_func;
    uint32_t func_count;
    struct ptx_decl **vars; /* module scope, all spaces, order of the text */
    uint32_t var_count, var_room;
    uint32_t major, minor, target, address_bytes;
    char target_kind; /* of sm_90a: 'a'; 0: none */
    bool object;      /* to be linked: what is external may be defined nowhere */
    uint32_t stamp;
};

/* Fails the job with PTXC_INVALID or PTXC_UNSUPPORTED. */
struct ptx_module *module_read(struct job *job, const char *text, size_t bytes);
/* The same for one of several modules that will be linked. */
struct ptx_module *module_read_object(struct job *job, const char *text, size_t bytes);
struct ptx_symbol *module_find(struct ptx_module *module, const char *name, size_t bytes);
/* Names and declarations in a body; does it once. */
void module_scan(struct ptx_module *module, struct ptx_func *func);

/* What a kernel and all that it may call need of shared and local memory. */
struct module_layout {
    struct ptx_func **funcs; /* reached, the kernel first */
    uint32_t func_count;
    uint64_t shared_bytes; /* static; dynamic memory begins here */
    bool dynamic_shared;
    uint64_t local_bytes;
};
/* Sets ptx_decl.ordinal of the shared variables it places to their offset. */
void module_layout(struct ptx_module *module, struct ptx_func *kernel, struct module_layout *out);

/* Reading declarations: shared with the body parser. */
struct module_reader {
    struct ptx_module *module;
    struct ptx_lexer lexer;
    struct ptx_token token; /* the one ahead */
};
void reader_next(struct module_reader *reader);
_Noreturn void reader_fail(struct module_reader *reader, const char *expected);
bool reader_take(struct module_reader *reader, char punct);
void reader_expect(struct module_reader *reader, char punct);
/* One declarator list behind ".space", up to and without ';' or the parameter's ',' or ')'.
 * `each` is called per declared name. */
void reader_decl(struct module_reader *reader, struct ptx_decl *prefix, bool parameter,
                 void (*each)(void *arg, struct ptx_decl *decl), void *arg);
/* Parameters behind '(' up to and with ')'. `registers`: they may be in .reg too. */
void reader_params(struct module_reader *reader, bool registers, struct ptx_decl **items,
                   uint32_t *count);
/* An integer constant expression. */
uint64_t reader_constant(struct module_reader *reader);
const char *reader_name(struct module_reader *reader);
uint32_t reader_count(struct module_reader *reader);
uint32_t name_hash(const char *name, size_t bytes);

/* The value that stands for the address of a function. */
#define PTX_FUNC_ADDRESS(id) ((uint64_t)0x0f00000000000000 + (uint64_t)(id) * 16)

#endif

/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tables of generated/wire_ops.c are made of; native/api/wire.py has the same in Python.
 */
#ifndef HARP_WIRE_TABLE_H
#define HARP_WIRE_TABLE_H

#include <stdint.h>

#include "generated/wire_ops.h"

/* What one element is. `type` depends on it. */
enum harp_wire_item {
    HARP_WIRE_SCALAR,  /* type: bytes */
    HARP_WIRE_HANDLE,  /* type: enum harp_handle */
    HARP_WIRE_DEVICE,  /* a device address */
    HARP_WIRE_STRUCT,  /* type: program */
    HARP_WIRE_CASE,    /* type: case list, chosen by the tag */
    HARP_WIRE_SENT,    /* host bytes for the call */
    HARP_WIRE_FETCHED, /* host bytes from the call */
    HARP_WIRE_ROOM,    /* room for characters, ended by NUL */
    HARP_WIRE_WORDS,   /* type: policy of the options that the tag points to */
    HARP_WIRE_NULL,    /* a pointer that must be NULL */
};

/* Where the elements are. */
enum harp_wire_hold {
    HARP_WIRE_VALUE,   /* in place */
    HARP_WIRE_POINTER, /* where the field points */
    HARP_WIRE_LENT,    /* where the callee lets the field point */
    HARP_WIRE_LENT_AT, /* where the callee lets point what the field points to */
};

/* How many elements. */
enum harp_wire_length {
    HARP_WIRE_FIXED,      /* `fixed` */
    HARP_WIRE_BY,         /* the product of the fields `by`, less `less` */
    HARP_WIRE_BY_POINTED, /* what the field by[0] points to */
    HARP_WIRE_BY_TAG,     /* bytes: policy `type` of the tag */
    HARP_WIRE_TEXT,       /* up to NUL */
};

enum harp_wire_own { HARP_WIRE_USE, HARP_WIRE_NEW, HARP_WIRE_DEL };

#define HARP_WIRE_IN  1u
#define HARP_WIRE_OUT 2u

/* A number in the same struct, or slot. */
struct harp_wire_ref {
    uint16_t at, bytes; /* bytes 0: none */
};

struct harp_wire_field {
    uint8_t item, hold, dir, own;
    uint8_t length, less;
    uint16_t fixed;
    uint16_t at; /* bytes from the start of the struct, 8 a slot */
    uint16_t type;
    struct harp_wire_ref tag, by[3];
};

/* A struct, the slots of a call, or one case of a union. */
struct harp_wire_program {
    const char *name;
    uint16_t first, count; /* in harp_wire_fields */
    uint16_t size, align;
    int (*check)(const void *item); /* -errno: may not go over the wire */
};

struct harp_wire_case {
    uint32_t tag;
    uint16_t program;
};

struct harp_wire_cases {
    uint16_t first, count; /* in harp_wire_case_rows */
};

/* What a number (an attribute, an option) stands for: bytes, or one of the letters of
 * OPTION_VALUES. */
struct harp_wire_meaning {
    uint16_t policy;
    uint16_t means;
    uint32_t number;
};

enum harp_wire_class { HARP_WIRE_ASYNC, HARP_WIRE_SYNC, HARP_WIRE_CACHED };

#define HARP_WIRE_ALWAYS   1u /* outputs count also when the result is an error */
#define HARP_WIRE_RESIDENT 2u /* may name no host memory */
#define HARP_WIRE_PREPARED 4u /* has slots that the client prepares */
#define HARP_WIRE_REVERSE  8u /* said by the worker */

struct harp_wire_op {
    const char *name; /* NULL: the number is not taken */
    uint16_t program;
    uint8_t slots, cls, flags;
};

extern const struct harp_wire_op harp_wire_ops[HARP_OPS];
extern const struct harp_wire_program harp_wire_programs[];
extern const struct harp_wire_field harp_wire_fields[];
extern const struct harp_wire_case harp_wire_case_rows[];
extern const struct harp_wire_cases harp_wire_case_lists[];
extern const struct harp_wire_meaning harp_wire_meanings[];
extern const unsigned harp_wire_meaning_count;

#endif

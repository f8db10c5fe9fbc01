/* SPDX-License-Identifier: Apache-2.0
 *
 * PTX types as data: name, width, and how generated C holds a value of the type.
 */
#ifndef HARP_PTXC_TYPE_H
#define HARP_PTXC_TYPE_H

#include <stddef.h>
#include <stdint.h>

/* X(enumerator, PTX name, bytes, kind, C type of a value in an expression) */
#define PTX_TYPES(X)                                                                               \
    X(TY_PRED, "pred", 1, KIND_PRED, "_Bool")                                                      \
    X(TY_B8, "b8", 1, KIND_BITS, "uint8_t")                                                        \
    X(TY_B16, "b16", 2, KIND_BITS, "uint16_t")                                                     \
    X(TY_B32, "b32", 4, KIND_BITS, "uint32_t")                                                     \
    X(TY_B64, "b64", 8, KIND_BITS, "uint64_t")                                                     \
    X(TY_B128, "b128", 16, KIND_BITS, "u128")                                                      \
    X(TY_U8, "u8", 1, KIND_UINT, "uint8_t")                                                        \
    X(TY_U16, "u16", 2, KIND_UINT, "uint16_t")                                                     \
    X(TY_U32, "u32", 4, KIND_UINT, "uint32_t")                                                     \
    X(TY_U64, "u64", 8, KIND_UINT, "uint64_t")                                                     \
    X(TY_S8, "s8", 1, KIND_SINT, "int8_t")                                                         \
    X(TY_S16, "s16", 2, KIND_SINT, "int16_t")                                                      \
    X(TY_S32, "s32", 4, KIND_SINT, "int32_t")                                                      \
    X(TY_S64, "s64", 8, KIND_SINT, "int64_t")                                                      \
    X(TY_F16, "f16", 2, KIND_SMALL, "uint16_t")                                                    \
    X(TY_BF16, "bf16", 2, KIND_SMALL, "uint16_t")                                                  \
    X(TY_F16X2, "f16x2", 4, KIND_SMALL, "uint32_t")                                                \
    X(TY_BF16X2, "bf16x2", 4, KIND_SMALL, "uint32_t")                                              \
    X(TY_U16X2, "u16x2", 4, KIND_SMALL, "uint32_t")                                                \
    X(TY_S16X2, "s16x2", 4, KIND_SMALL, "uint32_t")                                                \
    X(TY_TF32, "tf32", 4, KIND_SMALL, "uint32_t")                                                  \
    X(TY_E4M3X2, "e4m3x2", 2, KIND_SMALL, "uint16_t")                                              \
    X(TY_E5M2X2, "e5m2x2", 2, KIND_SMALL, "uint16_t")                                              \
    X(TY_F32, "f32", 4, KIND_FLOAT, "float")                                                       \
    X(TY_F64, "f64", 8, KIND_FLOAT, "double")                                                      \
    X(TY_TEXREF, "texref", 8, KIND_OPAQUE, "uint64_t")                                             \
    X(TY_SAMPLERREF, "samplerref", 8, KIND_OPAQUE, "uint64_t")                                     \
    X(TY_SURFREF, "surfref", 8, KIND_OPAQUE, "uint64_t")

enum ptx_kind { KIND_PRED, KIND_BITS, KIND_UINT, KIND_SINT, KIND_SMALL, KIND_FLOAT, KIND_OPAQUE };

enum ptx_type {
    TY_NONE,
#define X(id, name, bytes, kind, c) id,
    PTX_TYPES(X)
#undef X
        TY_COUNT
};

struct ptx_type_info {
    const char *name;
    uint8_t bytes;
    uint8_t kind;
    const char *c;
};

extern const struct ptx_type_info ptx_types[TY_COUNT];

/* TY_NONE when `text` names no type. */
enum ptx_type ptx_type_of(const char *text, size_t bytes);

#endif

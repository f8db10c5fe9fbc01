/* SPDX-License-Identifier: Apache-2.0
 *
 * The texts in rt/ and ptx_rt.h, carried inside the program (prelude.S).
 */
#ifndef HARP_PTXC_PRELUDE_H
#define HARP_PTXC_PRELUDE_H

extern const char prelude_abi[] __attribute__((visibility("hidden")));
extern const char prelude_switch[] __attribute__((visibility("hidden")));
extern const char prelude_core[] __attribute__((visibility("hidden")));
extern const char prelude_arith[] __attribute__((visibility("hidden")));
extern const char prelude_float[] __attribute__((visibility("hidden")));
extern const char prelude_pack[] __attribute__((visibility("hidden")));
extern const char prelude_eights[] __attribute__((visibility("hidden")));
extern const char prelude_meet[] __attribute__((visibility("hidden")));
extern const char prelude_atomic[] __attribute__((visibility("hidden")));
extern const char prelude_fiber[] __attribute__((visibility("hidden")));
extern const char prelude_runtime[] __attribute__((visibility("hidden")));
extern const char prelude_rows[] __attribute__((visibility("hidden")));
extern const char prelude_tail[] __attribute__((visibility("hidden")));

#endif

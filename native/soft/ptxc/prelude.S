/* SPDX-License-Identifier: Apache-2.0 */
    .section .rodata
    .macro text name, file
    .globl \name
    .hidden \name
\name:
    .incbin "\file"
    .byte 0
    .endm
    text prelude_abi, "soft/ptxc/ptx_rt.h"
    text prelude_switch, "soft/ptxc/rt/switch.h"
    text prelude_core, "soft/ptxc/rt/core.h"
    text prelude_arith, "soft/ptxc/rt/arith.h"
    text prelude_float, "soft/ptxc/rt/float.h"
    text prelude_pack, "soft/ptxc/rt/pack.h"
    text prelude_eights, "soft/ptxc/rt/eights.h"
    text prelude_meet, "soft/ptxc/rt/meet.h"
    text prelude_atomic, "soft/ptxc/rt/atomic.h"
    text prelude_fiber, "soft/ptxc/rt/fiber.h"
    text prelude_runtime, "soft/ptxc/rt/runtime.h"
    text prelude_rows, "soft/ptxc/rt/rows.h"
    text prelude_tail, "soft/ptxc/rt/tail.h"
    .section .note.GNU-stack, "", %progbits

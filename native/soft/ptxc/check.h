/* SPDX-License-Identifier: Apache-2.0
 *
 * Does every instruction of a module exist? Drivers compile a whole module when it is loaded and
 * refuse it for one bad instruction in a kernel that nobody calls.
 */
#ifndef HARP_PTXC_CHECK_H
#define HARP_PTXC_CHECK_H

#include "soft/ptxc/module.h"

/* Text above this is not checked at load: it would take seconds. Its kernels are when compiled. */
enum { CHECK_MAX_BYTES = 4 << 20 };

/* Fails module->job with PTXC_INVALID. What is legal but unsupported here passes: only the kernel
 * that has it cannot run. */
void check_module(struct ptx_module *module);

#endif

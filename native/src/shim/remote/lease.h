/* SPDX-License-Identifier: Apache-2.0
 *
 * cuMemAlloc and cuMemFree without a round trip, by memory that the worker has made before.
 */
#ifndef HARP_SHIM_REMOTE_LEASE_H
#define HARP_SHIM_REMOTE_LEASE_H

#include "src/shim/remote/calls.h"
#include "src/shim/remote/ranges.h"

/* An allocation for the program out of what is there; false: nothing is. */
bool harp_remote_lease_take(CUdeviceptr *at, size_t bytes);
/* One that the worker is asked for, and with it spare ones if the program wants such ones often. */
CUresult harp_remote_lease_ask(CUdeviceptr *at, size_t bytes);
/* The program frees one of cuMemAlloc's: whether it stays here. *r: or is not freed after all. */
bool harp_remote_lease_keep(const struct harp_range *was, CUresult *r);

/* All of it goes back; false: there was nothing. */
bool harp_remote_lease_back(void);
/* Before a call of the lane's goes out: what has been there too long goes back, and all of it if
 * the worker has said that it has little left. */
void harp_remote_lease_look(struct harp_lane *lane);
/* The worker says so. */
void harp_remote_lease_recalled(void);
/* A context is gone. */
void harp_remote_forget_lease(uint64_t ctx);

#endif

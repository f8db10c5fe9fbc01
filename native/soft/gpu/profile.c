/* SPDX-License-Identifier: Apache-2.0
 *
 * The devices that the software GPU can be, as data. Capacities, SM counts, clocks and limits are
 * those of the cards they are named after; the time model is coarse on purpose: peak rates with a
 * typical efficiency, so that a kernel's modelled time is plausible, never a benchmark.
 */
#include <string.h>

#include "soft/gpu/soft.h"

#define MIB (1ull << 20)

/* As an H200 had them (driver 580, pieces of 2 MiB to 1 GiB): what a call costs; releasing costs
 * more with each granule. */
#define VMM_COSTS                                                                                  \
    .vmm_reserve_ns = 5000, .vmm_create_ns = 30000, .vmm_map_ns = 3200, .vmm_access_ns = 45000,    \
    .vmm_unmap_ns = 30000, .vmm_release_ns = 15000, .vmm_release_granule_ns = 1100

/* What both ways to use an H100 have in common: the whole board, and instances of it. */
#define H100_BOARD                                                                                 \
    .cc_major = 9, .cc_minor = 0, .clock_khz = 1980000, .memory_clock_khz = 2619000,               \
    .shared_per_sm = 233472, .shared_optin = 232448, .regs_per_sm = 65536, .threads_per_sm = 2048, \
    .blocks_per_sm = 32, .launch_ns = 2000, .copy_ns = 1500, .slice_ns = 2000000,                  \
    .switch_ns = 20000, .idle_w = 70, .power_w = 700, .power_min_w = 200, .idle_c = 32,            \
    .load_c = 68, .max_c = 87, .slow_c = 92, .shutdown_c = 95, .max_memory_c = 95,                 \
    .idle_clock_khz = 345000, .idle_memory_clock_khz = 2619000, .pcie_generation = 5,              \
    .nvlinks = 18, .cores_per_sm = 128, .bar1_bytes = 131072 * MIB, .remaps_rows = true,           \
    .has_mig = true

static const struct soft_profile profiles[] = {
    {
        .key = "h100-80g",
        .name = "HARP Software GPU (H100 80GB model)",
        .memory_bytes = 81008 * MIB,
        .nvml_bytes = 81559 * MIB,
        .context_bytes = 512 * MIB,
        .sm_count = 132,
        .bus_bits = 5120,
        .l2_bytes = 52428800,
        .flops_per_ns = 12000.0,
        .hbm_bytes_per_ns = 2600.0,
        .pcie_bytes_per_ns = 50.0,
        H100_BOARD,
        VMM_COSTS,
    },
    /* Two GPU instances 3g.40gb of an H100 80GB with MIG: each is a device to CUDA, with engines
     * and memory of its own. */
    {
        .key = "h100-mig-2x40g",
        .name = "HARP Software GPU (H100 80GB model) MIG 3g.40gb",
        .memory_bytes = 39936 * MIB,
        .nvml_bytes = 40448 * MIB,
        .context_bytes = 300 * MIB,
        .sm_count = 60,
        .bus_bits = 2560,
        .l2_bytes = 26214400,
        .flops_per_ns = 5450.0,
        .hbm_bytes_per_ns = 1300.0,
        .pcie_bytes_per_ns = 50.0,
        .board_key = "h100-80g",
        .instances = 2,
        .slices = 3,
        .memory_slices = 4,
        H100_BOARD,
        VMM_COSTS,
    },
    {
        .key = "a100-40g",
        .name = "HARP Software GPU (A100 40GB model)",
        .memory_bytes = 40338 * MIB,
        .nvml_bytes = 40960 * MIB,
        .context_bytes = 420 * MIB,
        .cc_major = 8,
        .cc_minor = 0,
        .sm_count = 108,
        .clock_khz = 1410000,
        .memory_clock_khz = 1215000,
        .bus_bits = 5120,
        .l2_bytes = 41943040,
        .shared_per_sm = 167936,
        .shared_optin = 166912,
        .regs_per_sm = 65536,
        .threads_per_sm = 2048,
        .blocks_per_sm = 32,
        .flops_per_ns = 5500.0,
        .hbm_bytes_per_ns = 1250.0,
        .pcie_bytes_per_ns = 24.0,
        .launch_ns = 2500,
        .copy_ns = 2000,
        .slice_ns = 2000000,
        .switch_ns = 20000,
        .idle_w = 50,
        .power_w = 400,
        .power_min_w = 100,
        .idle_c = 31,
        .load_c = 66,
        .max_c = 85,
        .slow_c = 89,
        .shutdown_c = 92,
        .max_memory_c = 95,
        .idle_clock_khz = 210000,
        .idle_memory_clock_khz = 1215000,
        .pcie_generation = 4,
        .nvlinks = 12,
        .cores_per_sm = 64,
        .bar1_bytes = 65536 * MIB,
        .remaps_rows = true,
        .has_mig = true,
        VMM_COSTS,
    },
    {
        .key = "t4-16g",
        .name = "HARP Software GPU (T4 16GB model)",
        .memory_bytes = 14930 * MIB,
        .nvml_bytes = 15360 * MIB,
        .context_bytes = 104 * MIB,
        .cc_major = 7,
        .cc_minor = 5,
        .sm_count = 40,
        .clock_khz = 1590000,
        .memory_clock_khz = 5001000,
        .bus_bits = 256,
        .l2_bytes = 4194304,
        .shared_per_sm = 65536,
        .shared_optin = 65536,
        .regs_per_sm = 65536,
        .threads_per_sm = 1024,
        .blocks_per_sm = 16,
        .flops_per_ns = 2000.0,
        .hbm_bytes_per_ns = 240.0,
        .pcie_bytes_per_ns = 12.0,
        .launch_ns = 3000,
        .copy_ns = 2500,
        .slice_ns = 2000000,
        .switch_ns = 20000,
        .idle_w = 10,
        .power_w = 70,
        .power_min_w = 60,
        .idle_c = 35,
        .load_c = 75,
        .max_c = 85,
        .slow_c = 93,
        .shutdown_c = 96,
        .max_memory_c = 0,
        .idle_clock_khz = 300000,
        .idle_memory_clock_khz = 405000,
        .pcie_generation = 3,
        .nvlinks = 0,
        .cores_per_sm = 64,
        .bar1_bytes = 256 * MIB,
        .remaps_rows = false,
        .has_mig = false,
        VMM_COSTS,
    },
    /* An H100 in small, for what is about moving memory: 1/2048 of its memory, and rates by which
     * to move, read or fill all of it takes 1/40 of an H100's time: a host can keep to that. */
    {
        .key = "h100-mini",
        .name = "HARP Software GPU (H100 1/2048 model)",
        .memory_bytes = 40 * MIB,
        .nvml_bytes = 41 * MIB,
        .context_bytes = 1 * MIB,
        .sm_count = 132,
        .bus_bits = 5120,
        .l2_bytes = 2097152,
        .flops_per_ns = 234.0,
        .hbm_bytes_per_ns = 51.0,
        .pcie_bytes_per_ns = 0.98,
        H100_BOARD,
        VMM_COSTS,
    },
    {
        .key = "tiny",
        .name = "HARP Software GPU (tiny, 1 GiB)",
        .memory_bytes = 1024 * MIB,
        .nvml_bytes = 1056 * MIB,
        .context_bytes = 24 * MIB,
        .cc_major = 9,
        .cc_minor = 0,
        .sm_count = 4,
        .clock_khz = 1000000,
        .memory_clock_khz = 1000000,
        .bus_bits = 128,
        .l2_bytes = 2097152,
        .shared_per_sm = 233472,
        .shared_optin = 232448,
        .regs_per_sm = 65536,
        .threads_per_sm = 2048,
        .blocks_per_sm = 32,
        .flops_per_ns = 400.0,
        .hbm_bytes_per_ns = 100.0,
        .pcie_bytes_per_ns = 10.0,
        .launch_ns = 2000,
        .copy_ns = 1500,
        .slice_ns = 2000000,
        .switch_ns = 20000,
        .idle_w = 5,
        .power_w = 40,
        .power_min_w = 20,
        .idle_c = 30,
        .load_c = 50,
        .max_c = 85,
        .slow_c = 90,
        .shutdown_c = 95,
        .max_memory_c = 0,
        .idle_clock_khz = 200000,
        .idle_memory_clock_khz = 1000000,
        .pcie_generation = 3,
        .nvlinks = 0,
        .cores_per_sm = 128,
        .bar1_bytes = 256 * MIB,
        .remaps_rows = true,
        .has_mig = false,
        VMM_COSTS,
    },
};

const struct soft_profile *soft_profile_at(int index)
{
    if (index < 0 || (size_t)index >= sizeof profiles / sizeof profiles[0])
        return NULL;
    return &profiles[index];
}

const struct soft_profile *soft_profile_find(const char *key, size_t key_bytes)
{
    for (size_t i = 0; i < sizeof profiles / sizeof profiles[0]; i++)
        if (strlen(profiles[i].key) == key_bytes && memcmp(profiles[i].key, key, key_bytes) == 0)
            return &profiles[i];
    return NULL;
}

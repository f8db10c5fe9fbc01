/* SPDX-License-Identifier: Apache-2.0
 *
 * Where boards sit: each at a host bridge of its own, shared out among the machine's NUMA nodes as
 * /sys tells them; no links between them, access from one to another over PCIe.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "soft/nvml/nvml.h"

#define NODES     "/sys/devices/system/node"
#define WORD_BITS (8u * (unsigned)sizeof(unsigned long))

/* "0-3,8" as a set; returns the number of members, and the `nth` of them. */
static unsigned read_list(const char *path, unsigned long *set, unsigned words, unsigned nth,
                          unsigned *found)
{
    char text[4096];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : 0;
    unsigned count = 0;
    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = '\0';
    for (char *p = text; *p >= '0' && *p <= '9';) {
        unsigned long from = strtoul(p, &p, 10), to = from;
        if (*p == '-')
            to = strtoul(p + 1, &p, 10);
        for (unsigned long i = from; i <= to && i < 65536; i++) {
            if (i / WORD_BITS < words)
                set[i / WORD_BITS] |= 1ul << (i % WORD_BITS);
            if (count++ == nth && found != NULL)
                *found = (unsigned)i;
        }
        if (*p == ',')
            p++;
    }
    return count;
}

/* The node a board is at; 0 where the machine tells nothing. */
static unsigned node_of(int board)
{
    unsigned node = 0, count = read_list(NODES "/has_cpu", NULL, 0, 0, NULL);
    if (count > 0)
        read_list(NODES "/has_cpu", NULL, 0, (unsigned)board % count, &node);
    return node;
}

nvmlReturn_t nvmlDeviceGetNumaNodeId(nvmlDevice_t device, unsigned int *node)
{
    BOARD_OR_RETURN(device, node);
    *node = node_of(t.board);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCpuAffinityWithinScope(nvmlDevice_t device, unsigned int words,
                                                 unsigned long *set, nvmlAffinityScope_t scope)
{
    BOARD_OR_RETURN(device, set);
    if (words == 0 || scope > NVML_AFFINITY_SCOPE_SOCKET)
        return NVML_ERROR_INVALID_ARGUMENT;
    char path[96];
    memset(set, 0, words * sizeof *set);
    snprintf(path, sizeof path, NODES "/node%u/cpulist", node_of(t.board));
    if (read_list(path, set, words, 0, NULL) == 0)
        read_list("/sys/devices/system/cpu/online", set, words, 0, NULL);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCpuAffinity(nvmlDevice_t device, unsigned int words, unsigned long *set)
{
    return nvmlDeviceGetCpuAffinityWithinScope(device, words, set, NVML_AFFINITY_SCOPE_NODE);
}

nvmlReturn_t nvmlDeviceGetMemoryAffinity(nvmlDevice_t device, unsigned int words,
                                         unsigned long *set, nvmlAffinityScope_t scope)
{
    BOARD_OR_RETURN(device, set);
    if (words == 0 || scope > NVML_AFFINITY_SCOPE_SOCKET)
        return NVML_ERROR_INVALID_ARGUMENT;
    unsigned node = node_of(t.board);
    memset(set, 0, words * sizeof *set);
    if (node / WORD_BITS < words)
        set[node / WORD_BITS] |= 1ul << (node % WORD_BITS);
    return NVML_SUCCESS;
}

/* It would move the caller's threads, which a library that only looks does not. */
nvmlReturn_t nvmlDeviceSetCpuAffinity(nvmlDevice_t device)
{
    BOARD_OR_RETURN(device, device);
    return NVML_ERROR_NOT_SUPPORTED;
}

nvmlReturn_t nvmlDeviceClearCpuAffinity(nvmlDevice_t device)
{
    return nvmlDeviceSetCpuAffinity(device);
}

static nvmlGpuTopologyLevel_t between(int a, int b)
{
    if (a == b)
        return NVML_TOPOLOGY_INTERNAL;
    return node_of(a) == node_of(b) ? NVML_TOPOLOGY_NODE : NVML_TOPOLOGY_SYSTEM;
}

nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t a, nvmlDevice_t b,
                                                 nvmlGpuTopologyLevel_t *level)
{
    BOARD_OR_RETURN(a, level);
    struct soft_target other;
    nvmlReturn_t result = soft_nvml_board(b, &other);
    if (result == NVML_SUCCESS)
        *level = between(t.board, other.board);
    return result;
}

static bool is_level(nvmlGpuTopologyLevel_t level)
{
    return (unsigned)level <= NVML_TOPOLOGY_SYSTEM && (unsigned)level % 10 == 0;
}

/* Boards at a test, with NVML's protocol: *count is the room, then their number. */
static nvmlReturn_t give(const struct soft_state *state, unsigned *count, nvmlDevice_t *devices,
                         bool (*wanted)(int board, const void *arg), const void *arg)
{
    unsigned room = devices != NULL ? *count : 0, n = 0;
    for (int board = 0; board < soft_state_board_count(state); board++) {
        if (!wanted(board, arg))
            continue;
        if (n < room)
            devices[n] = soft_nvml_board_handle(board);
        n++;
    }
    *count = n;
    return devices != NULL && n > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

struct near {
    int board;
    nvmlGpuTopologyLevel_t level;
};

static bool is_near(int board, const void *arg)
{
    const struct near *near = arg;
    return board != near->board && between(near->board, board) <= near->level;
}

nvmlReturn_t nvmlDeviceGetTopologyNearestGpus(nvmlDevice_t device, nvmlGpuTopologyLevel_t level,
                                              unsigned int *count, nvmlDevice_t *devices)
{
    BOARD_OR_RETURN(device, count);
    if (!is_level(level))
        return NVML_ERROR_INVALID_ARGUMENT;
    struct near near = {t.board, level};
    return give(t.state, count, devices, is_near, &near);
}

static bool has_cpu(int board, const void *arg)
{
    unsigned cpu = *(const unsigned *)arg;
    unsigned long set[1024] = {0};
    char path[96];
    snprintf(path, sizeof path, NODES "/node%u/cpulist", node_of(board));
    if (read_list(path, set, 1024, 0, NULL) == 0)
        read_list("/sys/devices/system/cpu/online", set, 1024, 0, NULL);
    return (set[cpu / WORD_BITS] >> (cpu % WORD_BITS) & 1) != 0;
}

nvmlReturn_t nvmlSystemGetTopologyGpuSet(unsigned int cpu, unsigned int *count,
                                         nvmlDevice_t *devices)
{
    struct soft_state *state;
    nvmlReturn_t result = soft_nvml_state(&state);
    if (result != NVML_SUCCESS)
        return result;
    if (count == NULL || cpu >= 1024 * WORD_BITS)
        return NVML_ERROR_INVALID_ARGUMENT;
    return give(state, count, devices, has_cpu, &cpu);
}

nvmlReturn_t nvmlDeviceGetP2PStatus(nvmlDevice_t a, nvmlDevice_t b, nvmlGpuP2PCapsIndex_t index,
                                    nvmlGpuP2PStatus_t *status)
{
    BOARD_OR_RETURN(a, status);
    struct soft_target other;
    nvmlReturn_t result = soft_nvml_board(b, &other);
    if (result != NVML_SUCCESS)
        return result;
    if ((unsigned)index > NVML_P2P_CAPS_INDEX_PROP || t.board == other.board)
        return NVML_ERROR_INVALID_ARGUMENT;
    /* as cuDeviceCanAccessPeer and cuDeviceGetP2PAttribute say: over PCIe, without its atomics */
    bool can = index != NVML_P2P_CAPS_INDEX_NVLINK && index != NVML_P2P_CAPS_INDEX_ATOMICS &&
               soft_state_peers(t.state, soft_state_board_dev(t.state, t.board),
                                soft_state_board_dev(t.state, other.board));
    *status = can ? NVML_P2P_STATUS_OK : NVML_P2P_STATUS_NOT_SUPPORTED;
    return NVML_SUCCESS;
}

/* Links the card has, with nothing at the other end. */
nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t device, unsigned int link,
                                      nvmlEnableState_t *active)
{
    BOARD_OR_RETURN(device, active);
    if (t.profile->nvlinks == 0)
        return NVML_ERROR_NOT_SUPPORTED;
    if (link >= (unsigned)t.profile->nvlinks)
        return NVML_ERROR_INVALID_ARGUMENT;
    *active = NVML_FEATURE_DISABLED;
    return NVML_SUCCESS;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * The link to the host. Throughput is the copy engines' busy share times the modelled bandwidth.
 */
#include "soft/nvml/nvml.h"

static nvmlReturn_t generation(nvmlDevice_t device, unsigned int *out)
{
    BOARD_OR_RETURN(device, out);
    *out = (unsigned)t.profile->pcie_generation;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMaxPcieLinkGeneration(nvmlDevice_t device, unsigned int *out)
{
    return generation(device, out);
}

nvmlReturn_t nvmlDeviceGetGpuMaxPcieLinkGeneration(nvmlDevice_t device, unsigned int *out)
{
    return generation(device, out);
}

nvmlReturn_t nvmlDeviceGetCurrPcieLinkGeneration(nvmlDevice_t device, unsigned int *out)
{
    return generation(device, out);
}

nvmlReturn_t nvmlDeviceGetMaxPcieLinkWidth(nvmlDevice_t device, unsigned int *width)
{
    BOARD_OR_RETURN(device, width);
    *width = 16;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCurrPcieLinkWidth(nvmlDevice_t device, unsigned int *width)
{
    return nvmlDeviceGetMaxPcieLinkWidth(device, width);
}

/* A lane's 2.5 Gbit/s doubles with each generation, but for the third, which codes better. */
nvmlReturn_t nvmlDeviceGetPcieSpeed(nvmlDevice_t device, unsigned int *mbit_s)
{
    BOARD_OR_RETURN(device, mbit_s);
    *mbit_s = 8000u << (t.profile->pcie_generation - 3);
    return NVML_SUCCESS;
}

/* Numbered as generations are. */
nvmlReturn_t nvmlDeviceGetPcieLinkMaxSpeed(nvmlDevice_t device, unsigned int *speed)
{
    return generation(device, speed);
}

nvmlReturn_t nvmlDeviceGetPcieReplayCounter(nvmlDevice_t device, unsigned int *count)
{
    BOARD_OR_RETURN(device, count);
    *count = 0; /* no wire, no noise */
    return NVML_SUCCESS;
}

/* Sent is what goes to the host. */
nvmlReturn_t nvmlDeviceGetPcieThroughput(nvmlDevice_t device, nvmlPcieUtilCounter_t counter,
                                         unsigned int *kbytes_s)
{
    BOARD_OR_RETURN(device, kbytes_s);
    if (counter != NVML_PCIE_UTIL_TX_BYTES && counter != NVML_PCIE_UTIL_RX_BYTES)
        return NVML_ERROR_INVALID_ARGUMENT;
    enum soft_engine engine = counter == NVML_PCIE_UTIL_TX_BYTES ? SOFT_COPY_OUT : SOFT_COPY_IN;
    double busy = 0;
    for (int dev = t.dev; dev < t.dev + t.size; dev++)
        busy += soft_state_utilization(t.state, dev, engine, NVML_WINDOW_NS);
    *kbytes_s = (unsigned)(busy * t.profile->pcie_bytes_per_ns * 1e6);
    return NVML_SUCCESS;
}

/* Never used by anything but the driver's own windows, which the model has not. */
nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t *memory)
{
    ANY_OR_RETURN(device, memory);
    uint64_t total = t.profile->bar1_bytes;
    *memory = (nvmlBAR1Memory_t){.bar1Total = total, .bar1Free = total};
    return NVML_SUCCESS;
}

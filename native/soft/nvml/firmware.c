/* SPDX-License-Identifier: Apache-2.0
 *
 * What is written on a board and into it: serial and part numbers, firmware, inforom. All of it
 * says that it is software.
 */
#include <stdio.h>
#include <string.h>

#include "soft/nvml/nvml.h"

nvmlReturn_t nvmlDeviceGetSerial(nvmlDevice_t device, char *serial, unsigned int length)
{
    BOARD_OR_RETURN(device, serial);
    uint8_t id[16];
    char text[32];
    soft_state_board_uuid(t.state, t.board, id);
    snprintf(text, sizeof text, "SOFT%02X%02X%02X%02X%02X", id[0], id[1], id[2], id[3], id[4]);
    return soft_nvml_text(text, serial, length);
}

/* A number for each board of the world: of its UUID. */
nvmlReturn_t nvmlDeviceGetPdi(nvmlDevice_t device, nvmlPdi_v1_t *pdi)
{
    BOARD_OR_RETURN(device, pdi);
    if (pdi->version != HARP_NVML_STRUCT(nvmlPdi_v1_t, 1))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    uint8_t id[16];
    soft_state_board_uuid(t.state, t.board, id);
    memcpy(&pdi->value, id + 8, sizeof pdi->value);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetBoardPartNumber(nvmlDevice_t device, char *number, unsigned int length)
{
    BOARD_OR_RETURN(device, number);
    char text[32];
    snprintf(text, sizeof text, "HARP-SOFT-%s", t.profile->key);
    return soft_nvml_text(text, number, length);
}

nvmlReturn_t nvmlDeviceGetVbiosVersion(nvmlDevice_t device, char *version, unsigned int length)
{
    BOARD_OR_RETURN(device, version);
    return soft_nvml_text("00.00.00.00.01-soft", version, length);
}

/* Turing and later have a GSP; from Ampere on the driver uses it by itself. */
nvmlReturn_t nvmlDeviceGetGspFirmwareMode(nvmlDevice_t device, unsigned int *enabled,
                                          unsigned int *as_made)
{
    BOARD_OR_RETURN(device, enabled);
    if (as_made == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *enabled = *as_made = t.profile->cc_major >= 8;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGspFirmwareVersion(nvmlDevice_t device, char *version)
{
    BOARD_OR_RETURN(device, version);
    if (t.profile->cc_major < 8)
        return NVML_ERROR_NOT_SUPPORTED;
    return nvmlSystemGetDriverVersion(version, 80); /* it is loaded with the driver */
}

nvmlReturn_t nvmlDeviceGetInforomImageVersion(nvmlDevice_t device, char *version,
                                              unsigned int length)
{
    BOARD_OR_RETURN(device, version);
    return soft_nvml_text("SOFT.0000.00.01", version, length);
}

nvmlReturn_t nvmlDeviceGetInforomVersion(nvmlDevice_t device, nvmlInforomObject_t object,
                                         char *version, unsigned int length)
{
    BOARD_OR_RETURN(device, version);
    if (object == NVML_INFOROM_OEM)
        return soft_nvml_text("0.1", version, length);
    if (object == NVML_INFOROM_ECC)
        return soft_nvml_text("0.2", version, length);
    return object == NVML_INFOROM_POWER || object == NVML_INFOROM_DEN ? NVML_ERROR_NOT_SUPPORTED
                                                                      : NVML_ERROR_INVALID_ARGUMENT;
}

/* Of the UUID, which is all that differs between two boards of a kind. */
nvmlReturn_t nvmlDeviceGetInforomConfigurationChecksum(nvmlDevice_t device, unsigned int *checksum)
{
    BOARD_OR_RETURN(device, checksum);
    uint8_t id[16];
    unsigned hash = 0x811c9dc5u;
    soft_state_board_uuid(t.state, t.board, id);
    for (int i = 0; i < 16; i++)
        hash = (hash ^ id[i]) * 0x01000193u;
    *checksum = hash;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceValidateInforom(nvmlDevice_t device)
{
    BOARD_OR_RETURN(device, device);
    return NVML_SUCCESS;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * A look: what a tenant may see of a device, asked by a process that uses none (nvidia-smi, gpustat
 * and the like). One question on a connection of its own, which ends with the answer: who watches
 * for days holds no slot, is company to nobody and costs no turn.
 */
#include <string.h>

#include "state.h"

void core_look(struct harp_core *k, struct client *c, const struct harp_msg *m)
{
    struct harp_msg answer = {.op = HARP_MEM_STATE, .seq = m->seq}, none = {.op = 0};
    uint32_t dev = 0;
    c->version = (uint8_t)wire_agreed(m);
    while (dev < k->n_devices && memcmp(k->device[dev].uuid, m->uuid, sizeof m->uuid) != 0)
        dev++;
    if (dev < k->n_devices) {
        answer.dev = dev;
        mem_state(k, (uint32_t)c->tenant, dev, &answer);
    }
    core_send(k, c, &answer);
    core_emit(k, HARP_ACT_CLOSE, c->id, &none);
    core_kill(k, c); /* never live: nobody hears of it */
}

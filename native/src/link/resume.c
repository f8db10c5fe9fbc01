/* SPDX-License-Identifier: Apache-2.0
 *
 * `harp-resume`: what two ends say of a session that is to outlive its connection. Pure.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "src/link/grpc.h"

#define KEY_DIGITS (HARP_RESUME_KEY_BYTES - 1)

/* A decimal number of at most 18 digits, and what ends it. */
static bool number(const char **text, char end, uint64_t *value)
{
    const char *at = *text;
    *value = 0;
    for (; *at >= '0' && *at <= '9' && at - *text < 18; at++)
        *value = 10 * *value + (uint64_t)(*at - '0');
    if (at == *text || *at != end)
        return false;
    *text = at + (end != '\0');
    return true;
}

void harp_resume_put(char text[HARP_RESUME_TEXT], const struct harp_resume *resume)
{
    snprintf(text, HARP_RESUME_TEXT, "%.*s %llu %llu", (int)KEY_DIGITS, resume->key,
             (unsigned long long)resume->attempt, (unsigned long long)resume->taken);
}

int harp_resume_get(struct harp_resume *resume, const char *text)
{
    *resume = (struct harp_resume){.attempt = 0};
    if (strspn(text, "0123456789abcdef") != KEY_DIGITS || text[KEY_DIGITS] != ' ')
        return -EINVAL;
    memcpy(resume->key, text, KEY_DIGITS);
    text += HARP_RESUME_KEY_BYTES;
    return number(&text, ' ', &resume->attempt) && number(&text, '\0', &resume->taken) ? 0
                                                                                       : -EINVAL;
}

void harp_resume_answer(char text[HARP_RESUME_TEXT], uint64_t taken, unsigned window_ms)
{
    snprintf(text, HARP_RESUME_TEXT, "%llu %u", (unsigned long long)taken, window_ms);
}

int harp_resume_answered(uint64_t *taken, unsigned *window_ms, const char *text)
{
    uint64_t ms;
    if (!number(&text, ' ', taken) || !number(&text, '\0', &ms) || ms == 0 || ms > UINT32_MAX)
        return -EINVAL;
    *window_ms = (unsigned)ms;
    return 0;
}

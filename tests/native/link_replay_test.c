/* SPDX-License-Identifier: Apache-2.0
 *
 * replay.c: two ends and connections between them that break at any byte; what is taken in is what
 * was sent, each once and in order.
 */
#include "src/link/replay.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "src/link/grpc.h"

#define AROUND(item) ((struct sent *)(void *)(item))
#define WIRE_BYTES   4096u

static uint64_t state = 1;

static unsigned below(unsigned n)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)(state >> 33) % n;
}

static int living;

struct sent {
    struct harp_replay_item item;
    uint32_t bytes;
    uint32_t serial; /* what its bytes are made of */
};

static void drop(struct harp_replay_item *item)
{
    CHECK(!item->lent && !item->listed);
    living--;
    free(AROUND(item));
}

/* Bytes on their way, and which messages they are of. */
struct wire {
    uint8_t data[WIRE_BYTES];
    unsigned size;
    struct harp_replay_item *lent[64];
    unsigned count;
};

struct end {
    struct harp_replay replay;
    struct wire out;
    uint32_t serial, expected; /* of the last one made, of the next one to come */
    bool connected;
};

static void make(struct end *e)
{
    struct sent *s = calloc(1, sizeof *s);
    CHECK(s != NULL);
    living++;
    s->item.drop = drop;
    s->serial = ++e->serial;
    s->bytes = below(200);
    harp_replay_add(&e->replay, &s->item, (uint32_t)sizeof *s + s->bytes);
}

static uint8_t byte_of(uint32_t serial, uint32_t at)
{
    return (uint8_t)(serial * 31 + at * 7);
}

/* serial or count, kind, bytes, then these. */
static bool write_message(struct wire *w, uint64_t number, uint32_t kind, uint32_t bytes)
{
    if (w->size + 16 + bytes > WIRE_BYTES)
        return false;
    uint8_t *at = w->data + w->size;
    memcpy(at, &number, 8);
    memcpy(at + 8, &kind, 4);
    memcpy(at + 12, &bytes, 4);
    for (uint32_t i = 0; i < bytes; i++)
        at[16 + i] = byte_of((uint32_t)number, i);
    w->size += 16 + bytes;
    return true;
}

static void send_some(struct end *e)
{
    struct harp_replay_item *item = harp_replay_next(&e->replay);
    struct wire *w = &e->out;
    if (item == NULL || w->count == 64 ||
        !write_message(w, AROUND(item)->serial, 0, AROUND(item)->bytes))
        return;
    harp_replay_give(&e->replay);
    w->lent[w->count++] = item;
}

static void tell(struct end *e)
{
    if (harp_replay_untold(&e->replay) && write_message(&e->out, e->replay.taken, 1, 0))
        harp_replay_tell(&e->replay);
}

/* What was written is no longer needed by the connection, in any order. */
static void written(struct end *e)
{
    struct wire *w = &e->out;
    if (w->count == 0)
        return;
    unsigned which = below(w->count);
    harp_replay_back(w->lent[which]);
    w->lent[which] = w->lent[--w->count];
}

/* The first message on the wire, if it is whole. `valid`: as far as bytes have come. */
static void take_one(struct end *e, struct wire *w, unsigned valid)
{
    uint64_t number;
    uint32_t kind, bytes;
    if (valid < 16)
        return;
    memcpy(&number, w->data, 8);
    memcpy(&kind, w->data + 8, 4);
    memcpy(&bytes, w->data + 12, 4);
    if (valid < 16 + bytes)
        return;
    if (kind == 0) {
        CHECK(number == e->expected);
        for (uint32_t i = 0; i < bytes; i++)
            CHECK(w->data[16 + i] == byte_of((uint32_t)number, i));
        e->expected++;
        (void)harp_replay_took(&e->replay, bytes);
    } else {
        CHECK(harp_replay_acked(&e->replay, number) == 0);
    }
    w->size -= 16 + bytes;
    memmove(w->data, w->data + 16 + bytes, w->size);
}

/* The connection is lost for `e`: what it has on its way is taken back. */
static void lose(struct end *e)
{
    while (e->out.count != 0)
        written(e);
    e->out.size = 0;
    e->connected = false;
}

static void step(struct end *e, struct end *other)
{
    switch (below(6)) {
    case 0:
        if (e->connected || !harp_replay_full(&e->replay))
            make(e);
        break;
    case 1:
    case 2:
        if (e->connected)
            send_some(e);
        break;
    case 3:
        written(e);
        break;
    case 4:
        if (e->connected && below(4) == 0)
            tell(e);
        break;
    default:
        if (e->connected)
            take_one(e, &other->out, other->out.size);
    }
    if (e->connected)
        harp_replay_trim(&e->replay);
}

/* As near and far do: near has let go of its connection, and says what it has taken; far may go on
 * taking what is still on the old one's way, up to any byte, until it hears that. */
static int again(struct end *near, struct end *far)
{
    struct wire way = near->out;
    lose(near);
    const uint64_t asked = near->replay.taken;
    unsigned valid = below(way.size + 1);
    for (unsigned i = below(20); i > 0 && far->connected; i--) {
        unsigned before = way.size;
        take_one(far, &way, valid);
        valid -= before - way.size;
    }
    lose(far);
    for (unsigned i = below(10); i > 0; i--) { /* a time without */
        step(near, far);
        step(far, near);
    }
    int err = harp_replay_from(&far->replay, asked);
    if (err == 0)
        err = harp_replay_from(&near->replay, far->replay.taken);
    near->connected = far->connected = err == 0;
    return err;
}

static void open_end(struct end *e, uint64_t most)
{
    memset(e, 0, sizeof *e);
    harp_replay_open(&e->replay, most);
    e->replay.keeps = e->connected = true;
    e->expected = 1;
}

static void close_end(struct end *e)
{
    lose(e);
    while (harp_replay_next(&e->replay) != NULL)
        harp_replay_give(&e->replay);
    for (struct harp_replay_item *item = e->replay.first; item != NULL; item = item->next)
        item->lent = false;
    CHECK(harp_replay_acked(&e->replay, e->replay.added) == 0);
    CHECK(e->replay.bytes == 0);
}

static void drops_at_any_byte(uint64_t most, bool may_be_late)
{
    static struct end near, far;
    unsigned late = 0, resumed = 0;
    for (unsigned round = 0; round < 300; round++) {
        open_end(&near, most);
        open_end(&far, most);
        for (unsigned i = 0; i < 40; i++) {
            for (unsigned j = below(200); j > 0; j--) {
                step(&near, &far);
                step(&far, &near);
            }
            int err = again(&near, &far);
            CHECK(err == 0 || (err == -ENODATA && may_be_late));
            late += err != 0;
            resumed += err == 0;
            if (err != 0)
                break;
        }
        /* All there is arrives. */
        for (unsigned i = 0; near.connected && i < 2000; i++) {
            send_some(&near);
            send_some(&far);
            written(&near);
            written(&far);
            take_one(&far, &near.out, near.out.size);
            take_one(&near, &far.out, far.out.size);
        }
        if (near.connected)
            CHECK(far.expected == near.serial + 1 && near.expected == far.serial + 1);
        close_end(&near);
        close_end(&far);
        CHECK(living == 0);
    }
    CHECK(resumed > 0 && (late > 0) == may_be_late);
}

static void what_is_not_so_is_refused(void)
{
    static struct end e;
    open_end(&e, 1 << 20);
    for (unsigned i = 0; i < 5; i++)
        make(&e);
    CHECK(harp_replay_acked(&e.replay, 1) == -EPROTO); /* not given yet */
    for (unsigned i = 0; i < 3; i++)
        send_some(&e);
    CHECK(harp_replay_can(&e.replay, 4) == -EPROTO);
    CHECK(harp_replay_acked(&e.replay, 4) == -EPROTO);
    CHECK(harp_replay_acked(&e.replay, 2) == 0);
    CHECK(harp_replay_acked(&e.replay, 1) == 0); /* known */
    CHECK(harp_replay_can(&e.replay, 1) == -ENODATA);
    CHECK(harp_replay_can(&e.replay, 2) == 0 && harp_replay_can(&e.replay, 3) == 0);
    lose(&e);
    CHECK(harp_replay_from(&e.replay, 1) == -ENODATA);
    CHECK(harp_replay_from(&e.replay, 2) == 0);
    CHECK(harp_replay_next(&e.replay)->number == 3);
    /* Acknowledged before it was given again: it is not. */
    CHECK(harp_replay_acked(&e.replay, 3) == 0);
    CHECK(harp_replay_next(&e.replay)->number == 4);
    close_end(&e);
    CHECK(living == 0);
}

static void what_is_not_kept_leaves_when_given(void)
{
    static struct end e;
    open_end(&e, 1);
    e.replay.keeps = false;
    make(&e);
    make(&e);
    CHECK(harp_replay_full(&e.replay));
    send_some(&e);
    send_some(&e);
    CHECK(e.replay.bytes == 0 && living == 2);
    lose(&e);
    CHECK(living == 0);
}

/* Letting go of what a connection has sets no memory free. */
static void what_is_lent_is_not_let_go(void)
{
    static struct end e;
    open_end(&e, 1);
    make(&e);
    make(&e);
    send_some(&e);
    send_some(&e);
    harp_replay_trim(&e.replay);
    CHECK(harp_replay_can(&e.replay, 0) == 0 && living == 2);
    lose(&e);
    harp_replay_trim(&e.replay);
    CHECK(harp_replay_can(&e.replay, 0) == -ENODATA && living == 0);
}

static void telling(void)
{
    struct harp_replay r;
    harp_replay_open(&r, 1);
    CHECK(!harp_replay_untold(&r));
    CHECK(!harp_replay_took(&r, HARP_REPLAY_TELL_BYTES - 1) && harp_replay_untold(&r));
    CHECK(harp_replay_took(&r, 1));
    harp_replay_tell(&r);
    CHECK(!harp_replay_untold(&r) && r.taken == 2 && !harp_replay_took(&r, 1));
}

static void texts(void)
{
    char text[HARP_RESUME_TEXT];
    uint64_t taken;
    unsigned ms;
    struct harp_resume all = {.attempt = 999999999999999999ull, .taken = 999999999999999999ull};
    struct harp_resume back;
    memset(all.key, 'e', HARP_RESUME_KEY_BYTES - 1);
    harp_resume_put(text, &all);
    CHECK(harp_resume_get(&back, text) == 0 && strcmp(back.key, all.key) == 0);
    CHECK(back.attempt == all.attempt && back.taken == all.taken);
    harp_resume_answer(text, all.taken, 4294967295u);
    CHECK(harp_resume_answered(&taken, &ms, text) == 0 && taken == all.taken && ms == 4294967295u);
#define KEY "0123456789abcdef0123456789abcdef"
    static const char *const wrong[] = {
        "",
        KEY,
        KEY " 1",
        KEY " 1 ",
        KEY " 1 2 ",
        KEY " 1 -2",
        KEY "f 1",
        "x" KEY " 1",
        KEY "  1",
        KEY " a 1",
        KEY " 1 1234567890123456789",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CHECK(harp_resume_get(&back, wrong[i]) == -EINVAL);
    static const char *const wrong_answers[] = {"", "1", "1 ", "1 0", "1 4294967296", "1 2 3"};
    for (size_t i = 0; i < sizeof wrong_answers / sizeof *wrong_answers; i++)
        CHECK(harp_resume_answered(&taken, &ms, wrong_answers[i]) == -EINVAL);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        state = strtoull(argv[1], NULL, 0) | 1;
    drops_at_any_byte(1 << 20, false);
    drops_at_any_byte(2000, true);
    what_is_not_so_is_refused();
    what_is_not_kept_leaves_when_given();
    what_is_lent_is_not_let_go();
    telling();
    texts();
    return 0;
}

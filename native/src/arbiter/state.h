/* SPDX-License-Identifier: Apache-2.0
 *
 * What the core knows, and the calls between its files. Nothing outside the core includes this.
 *
 * A *use* is tenant x device, a *hold* is client x device; of time, an *account* is tenant x lane
 * and a *gate* is client x lane. Lists are indexes into arrays, -1 ends.
 */
#ifndef HARP_ARBITER_STATE_H
#define HARP_ARBITER_STATE_H

#include "core.h"
#include "lanes.h"
#include "residency.h"

#define HARP_REQUESTS 4096u

/* One tenant's shortage of memory bothers another at most so often. */
#define HARP_FOREIGN_NS 10000000ull

struct hold {
    uint64_t leased[HARP_MEM_CLASSES];
    uint64_t told;         /* overhead the device says, by harpd */
    uint64_t told_counted; /* of `told`, what is the tenant's own: code, heaps, local memory */
    uint64_t extra;        /* what of `told` is more than the leases of class OVERHEAD */
    uint64_t counted;      /* what of `extra` counts against the tenant's limit as well */
    uint64_t changes;      /* of its leases: tells harpd whether they stood still while it looked */
    uint64_t recall_no;    /* the recall it owes an answer to; 0: none */
    uint64_t claim;        /* most of class DEVICE it may adopt, if `claimable` */
    uint8_t claimable;
    struct gate gate[HARP_TIME_LANES];
    struct stay stay;
};

struct client {
    uint32_t id; /* 0: slot is free */
    uint32_t uid;
    int32_t pid, inner_pid;
    int32_t tenant;
    int32_t prev, next; /* among the tenant's clients */
    uint32_t kind;
    uint32_t waiting; /* unanswered LEASE_MEM */
    uint8_t state;    /* 0 before HELLO, then enum harp_client_state */
    uint8_t mute;     /* did not answer a recall; cleared by any message */
    uint8_t may_adopt;
    uint8_t ends; /* says when it has adopted all: till then it may be slow, or stopped */
    uint8_t moved[HARP_MAX_DEVICES]; /* where what it calls so is, + 1; 0: there */
    uint8_t ghost;     /* dead connection of a process that came back: drains by itself */
    uint8_t returning; /* adopts what is kept for it; its next message of another kind ends that */
    uint8_t expected;  /* was an earlier arbiter's client and has not come back to this one */
    uint8_t version;   /* of the protocol, that is spoken with it */
    uint8_t odd;       /* said something we do not know; that is logged once */
    uint64_t dead_ns;
    uint64_t host; /* pinned host memory */
    char program[HARP_NAME_BYTES];
    struct hold hold[HARP_MAX_DEVICES];
};

struct use {
    uint8_t granted;
    uint64_t limit;
    uint64_t beside; /* of its contexts, what does not count against the limit; 0: all of them */
    uint32_t cls;
    uint64_t leased[HARP_MEM_CLASSES]; /* sums over live clients */
    uint64_t draining[HARP_MEM_CLASSES];
    uint64_t extra, counted; /* live clients' */
    uint8_t away;         /* suspended: what is leased does not lie on the device; see suspend.c */
    uint64_t reserved;    /* for its return, on device `reserved_on` */
    uint32_t reserved_on; /* + 1 */
    uint64_t return_mark; /* recall rounds its return waits for are newer; + 1; 0: none */
    uint64_t peak;
    uint64_t denials;
    uint64_t round_started, round_done; /* numbers of recall rounds (device.round_no) */
    uint64_t round_deadline;
    uint64_t round_earliest; /* for the shortage of another tenant */
    uint32_t awaiting;       /* answers the running round still needs */
    uint8_t alone;           /* no gang: its turns on this device do not wait for those on others */
    uint8_t swaps;           /* HARP_GRANT_OVERSUBSCRIBE */
    uint64_t copy_ns, launches;
    struct account account[HARP_TIME_LANES];
    struct residency swap;
};

struct tenant {
    uint32_t id; /* 0: slot is free */
    uint32_t uid;
    int32_t first; /* client list */
    uint32_t clients, live;
    uint32_t waiting;          /* unanswered LEASE_MEM of all its clients */
    int32_t gang;              /* device whose turn the other devices follow; -1: none */
    uint8_t deleted;           /* goes when its last client has drained */
    uint8_t suspended;         /* its gates stay closed */
    uint64_t host, host_quota; /* pinned host memory: sum over live clients; 0: no quota */
    char name[HARP_NAME_BYTES];
    struct use use[HARP_MAX_DEVICES];
};

struct device {
    uint8_t uuid[16];
    uint64_t capacity, overhead;
    uint64_t leased, extra, draining; /* leased: what of all classes is on the device */
    uint64_t reserved;                /* for tenants that are about to return */
    uint64_t round_no;
    uint32_t rounds;  /* recall rounds that run */
    uint32_t tenants; /* granted, with live clients; of these, class latency */
    uint32_t latency;
    struct lane lane[HARP_TIME_LANES];
    struct rotation swap;
    int32_t first, last; /* waiting requests, oldest first */
    uint8_t unsettled;   /* something happened that may let one of them go on */
};

struct request {
    int32_t next;
    int32_t client; /* slot; -1: free */
    uint32_t seq, cls;
    uint64_t bytes, deadline;
    uint64_t latest_ns; /* the deadline is never put off beyond that */
    uint64_t mark;      /* a recall round counts for it if its number is higher */
};

struct harp_core {
    struct harp_core_config config;
    const struct harp_sink *sink; /* of the running step */
    uint64_t now;
    uint32_t n_devices, n_tenants, n_clients; /* slots ever used */
    uint32_t free_requests, used_clients;
    uint32_t watchers;
    uint32_t beside;       /* id of the gang that was opened beside a drain last; see gang.c */
    uint64_t arrivals;     /* numbers of who came to want time */
    uint64_t unwatched_ns; /* since when nobody is subscribed */
    uint32_t generation;
    int32_t free_request, free_client;
    uint32_t draining; /* dead clients not yet gone */
    struct device device[HARP_MAX_DEVICES];
    struct request request[HARP_REQUESTS];
    struct tenant *tenant;
    struct client *client;
};

static inline uint32_t use_flags(const struct use *u) /* HARP_GRANT_* */
{
    return (u->alone ? HARP_GRANT_NO_GANG : 0) | (u->swaps ? HARP_GRANT_OVERSUBSCRIBE : 0);
}

static inline uint64_t below(uint64_t used, uint64_t limit)
{
    return used < limit ? limit - used : 0;
}

/* core.c */
void core_emit(struct harp_core *k, uint32_t kind, uint32_t client, const struct harp_msg *msg);
void core_send(struct harp_core *k, const struct client *c, struct harp_msg *msg);
void core_log(struct harp_core *k, const struct client *c, uint32_t dev, uint64_t bytes,
              const char *text);
void core_announce(struct harp_core *k, uint32_t tenant, uint32_t dev);
void core_device(struct harp_core *k, struct client *c, uint32_t dev);
void core_moved(struct harp_core *k, struct client *c, uint32_t from, uint32_t to);

/* clients.c */
#define HARP_SLOT_BITS   14u
#define HARP_CLIENTS_MAX ((1u << HARP_SLOT_BITS) - 2u)
void core_join(struct harp_core *k, const struct harp_msg *msg);
void core_client_event(struct harp_core *k, const struct client *c);
void core_fill_client(const struct harp_core *k, const struct client *c, struct harp_msg *msg);
struct client *core_client(struct harp_core *k, uint32_t id);
/* A client in a free slot; NULL: none is left for this tenant. */
struct client *core_new_client(struct harp_core *k, struct tenant *t, int32_t pid, uint32_t uid);
void core_kill(struct harp_core *k, struct client *c);
void core_drained(struct harp_core *k, struct client *c, uint32_t dev);
void core_drain_tick(struct harp_core *k); /* the dead that drain by themselves */
uint64_t core_drain_next(const struct harp_core *k);
static inline uint32_t core_slot(const struct harp_core *k, const struct client *c)
{
    return (uint32_t)(c - k->client);
}

/* look.c */
void core_look(struct harp_core *k, struct client *c, const struct harp_msg *m);

/* admin_ops.c */
void core_admin(struct harp_core *k, const struct harp_msg *msg);

/* memory.c */
uint64_t mem_occupied(const struct device *d);
uint64_t mem_free(const struct harp_core *k, uint32_t dev, uint32_t tenant);
/* Bytes that the tenant could get of the device as it is filled, its limit left out;
 * `when_drained`: once the dead are gone. */
uint64_t mem_room(const struct harp_core *k, uint32_t dev, uint32_t tenant, int when_drained);
/* The same for memory of that class if all had left for it that can leave. */
uint64_t mem_room_alone(const struct harp_core *k, uint32_t dev, uint32_t tenant, uint32_t cls,
                        int when_drained);
int mem_limited(uint32_t cls); /* counts against a tenant's limit */
int mem_limit_stops(const struct use *u, const struct request *r, int when_drained);
void mem_lease(struct harp_core *k, struct client *c, uint32_t dev, uint32_t cls, uint64_t bytes);
/* So much of a client's SWAP memory counts against the device from now on. */
void mem_stay(struct harp_core *k, struct client *c, uint32_t dev, uint64_t on);
void mem_cover(struct harp_core *k, struct client *c, uint32_t dev);
void mem_told(struct harp_core *k, struct client *c, uint32_t dev, uint64_t bytes,
              uint64_t counted);
/* Fills in what a tenant may see of a device. */
void mem_state(const struct harp_core *k, uint32_t tenant, uint32_t dev, struct harp_msg *m);
void mem_message(struct harp_core *k, struct client *c, const struct harp_msg *msg);
void mem_dead(struct harp_core *k, struct client *c);
void mem_drained(struct harp_core *k, struct client *c, uint32_t dev);

/* requests.c */
void request_new(struct harp_core *k, struct client *c, const struct harp_msg *msg);
void request_settle(struct harp_core *k, uint32_t dev); /* grants, recalls or denies who waits */
/* What a client waits for on `dev` it waits for on `to`. */
void request_moved(struct harp_core *k, struct client *c, uint32_t dev, uint32_t to);
void request_dead(struct harp_core *k, const struct client *c, uint32_t dev);
void request_tick(struct harp_core *k);
uint64_t request_next(const struct harp_core *k);

/* expect.c */
int expect(struct harp_core *k, struct tenant *t, const struct harp_msg *m, uint32_t *id);
void expect_back(struct harp_core *k, struct client *c);
uint64_t expect_claim(struct harp_core *k, struct client *c, uint32_t dev, uint64_t bytes);
void expect_done(struct harp_core *k, struct client *c);
/* Whether the process of this dead connection is here, and has not yet adopted all. */
int expect_awaited(const struct harp_core *k, const struct client *ghost);
/* host.c */
int host_message(struct harp_core *k, struct client *c, const struct harp_msg *m); /* 1: its own */
void host_dead(struct harp_core *k, struct client *c);
const char *host_check(const struct harp_core *k, const struct tenant *t);
/* suspend.c. 0, or an errno with a text of HARP_NAME_BYTES. */
int suspend_step(struct harp_core *k, struct tenant *t, uint32_t dev, uint32_t phase, char *text);
int resume_step(struct harp_core *k, struct tenant *t, uint32_t dev, uint32_t to, uint32_t phase,
                char *text);
void suspend_forget(struct harp_core *k, struct tenant *t); /* it goes */

/* recall.c */
int recall_settled(struct harp_core *k, uint32_t dev, uint32_t tenant, uint64_t mark, int foreign);
int recall_all_settled(struct harp_core *k, uint32_t dev, uint32_t asker, uint64_t mark);
void recall_answered(struct harp_core *k, struct client *c, uint32_t dev, uint32_t seq);
void recall_dead(struct harp_core *k, struct client *c, uint32_t dev);
void recall_tick(struct harp_core *k, uint32_t dev);
uint64_t recall_next(const struct harp_core *k, uint32_t dev);

/* check_swap.c */
const char *check_residency(const struct harp_core *k, uint32_t dev);

/* check_time.c */
const char *check_lane(const struct harp_core *k, const struct lane *l);

#endif

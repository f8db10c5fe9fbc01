/* SPDX-License-Identifier: Apache-2.0
 *
 * What the core knows, and the calls between its files. Nothing outside core.c, memory.c, recall.c,
 * time.c, policy_drr.c, admin_ops.c and check.c includes this.
 *
 * A *use* is tenant x device, a *hold* is client x device. Lists are indexes into arrays, -1 ends.
 */
#ifndef HARP_ARBITER_STATE_H
#define HARP_ARBITER_STATE_H

#include "core.h"

#define HARP_PPM      1000000u
#define HARP_REQUESTS 4096u

/* A holder past its end is given up so long after its last word; and in any case. */
#define HARP_OVERDUE_NS 500000000ull
#define HARP_HUNG_NS    10000000000ull

/* Most an idle tenant is owed when it comes back; most a tenant can owe; depth of the cap's token
 * bucket; how long after its last work a tenant's weight counts; queued work of an open-ended turn
 * in company. */
#define HARP_CREDIT_NS 50000000ull
#define HARP_DEBT_NS   1000000000ull
#define HARP_BUCKET_NS 50000000ll
#define HARP_ACTIVE_NS 100000000ull
#define HARP_WINDOW_NS 4000000ull

/* A holder keeps its quantum at least so long; less than this left of one is not worth an OPEN. */
#define HARP_PREEMPT_NS 1000000ull
#define HARP_REJOIN_NS  200000ull

/* One tenant's shortage of memory bothers another at most so often. */
#define HARP_FOREIGN_NS 10000000ull

struct hold {
    uint64_t leased[HARP_MEM_CLASSES];
    uint64_t told;      /* overhead the device says, by harpd */
    uint64_t extra;     /* what of that is more than the leases of class OVERHEAD */
    uint64_t recall_no; /* the recall it owes an answer to; 0: none */
    uint64_t epoch;     /* of its last OPEN */
    uint8_t gate;       /* enum harp_gate */
    uint8_t want;       /* has work and no open gate */
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
    uint8_t ghost; /* dead connection of a process that came back: drains by itself */
    uint64_t dead_ns;
    char program[HARP_NAME_BYTES];
    struct hold hold[HARP_MAX_DEVICES];
};

struct use {
    uint8_t granted;
    uint64_t limit;
    uint32_t share_ppm, cap_ppm, cls;
    uint64_t leased[HARP_MEM_CLASSES]; /* sums over live clients */
    uint64_t draining[HARP_MEM_CLASSES];
    uint64_t extra; /* live clients' */
    uint64_t peak;
    uint64_t denials;
    uint64_t round_started, round_done; /* numbers of recall rounds (device.round_no) */
    uint64_t round_deadline;
    uint64_t round_earliest; /* for the shortage of another tenant */
    uint32_t awaiting;       /* answers the running round still needs */
    /* time */
    uint32_t wants; /* live clients that want and are not overdue */
    uint64_t active_ns;
    uint64_t wait_since; /* 0: not waiting */
    uint64_t vtime;      /* ns of engine time times HARP_PPM / weight */
    int64_t tokens;      /* ns * HARP_PPM it may still run under its cap */
    uint64_t tokens_ns;
    uint64_t used_ns, copy_ns, launches, wait_ns;
};

struct tenant {
    uint32_t id; /* 0: slot is free */
    uint32_t uid;
    int32_t first; /* client list */
    uint32_t clients, live;
    uint32_t waiting; /* unanswered LEASE_MEM of all its clients */
    uint8_t deleted;  /* goes when its last client has drained */
    char name[HARP_NAME_BYTES];
    struct use use[HARP_MAX_DEVICES];
};

/* One open gate: the interval in which one tenant's processes may launch. */
struct turn {
    int32_t tenant; /* -1: none */
    uint32_t open;  /* clients whose gate is open or closing */
    uint64_t epoch, opened_ns;
    uint64_t quantum_ns; /* 0: until CLOSE */
    uint64_t close_ns;   /* when CLOSE was sent; 0: not */
    uint64_t preempt_ns; /* when CLOSE will be sent; 0: not planned */
    uint64_t alive_ns;   /* when a holder last reported */
    uint64_t window_ns;
    uint64_t used_ns, charged_ns; /* reported; of that already charged */
    uint8_t sole;                 /* nobody else could run when it began */
};

/* The last turn that was given up: its late yields are charged for what nobody else used. */
struct late {
    int32_t tenant;
    uint64_t epoch, opened_ns, charged_ns, others_ns;
};

struct device {
    uint8_t uuid[16];
    uint64_t capacity, overhead;
    uint64_t leased, extra, draining; /* leased: both classes */
    uint64_t epoch;
    uint64_t vtime; /* of the tenant served last: where a newcomer starts */
    uint64_t charged_ns;
    uint64_t round_no;
    struct turn turn;
    struct late late;
    int32_t first, last; /* waiting requests, oldest first */
    uint8_t unsettled;   /* something happened that may let one of them go on */
};

struct request {
    int32_t next;
    int32_t client; /* slot; -1: free */
    uint32_t seq, cls;
    uint64_t bytes, deadline;
    uint64_t mark; /* a recall round counts for it if its number is higher */
};

struct harp_core {
    struct harp_core_config config;
    const struct harp_sink *sink; /* of the running step */
    uint64_t now;
    uint32_t n_devices, n_tenants, n_clients; /* slots ever used */
    uint32_t free_requests, used_clients;
    uint32_t watchers;
    uint64_t unwatched_ns; /* since when nobody is subscribed */
    uint32_t generation;
    int32_t free_request, free_client;
    uint32_t draining; /* dead clients not yet gone */
    struct device device[HARP_MAX_DEVICES];
    struct request request[HARP_REQUESTS];
    struct tenant *tenant;
    struct client *client;
};

/* core.c */
void core_emit(struct harp_core *k, uint32_t kind, uint32_t client, const struct harp_msg *msg);
void core_send(struct harp_core *k, const struct client *c, struct harp_msg *msg);
void core_log(struct harp_core *k, const struct client *c, uint32_t dev, uint64_t bytes,
              const char *text);
void core_client_event(struct harp_core *k, const struct client *c);
void core_fill_client(const struct harp_core *k, const struct client *c, struct harp_msg *msg);
struct client *core_client(struct harp_core *k, uint32_t id);
void core_kill(struct harp_core *k, struct client *c);
void core_announce(struct harp_core *k, uint32_t tenant, uint32_t dev);
void core_device(struct harp_core *k, struct client *c, uint32_t dev);
void core_drained(struct harp_core *k, struct client *c, uint32_t dev);
static inline uint32_t core_slot(const struct harp_core *k, const struct client *c)
{
    return (uint32_t)(c - k->client);
}

/* admin_ops.c */
void core_admin(struct harp_core *k, const struct harp_msg *msg);

/* memory.c */
uint64_t mem_occupied(const struct device *d);
uint64_t mem_free(const struct harp_core *k, uint32_t dev, uint32_t tenant);
void mem_told(struct harp_core *k, struct client *c, uint32_t dev, uint64_t bytes);
void mem_message(struct harp_core *k, struct client *c, const struct harp_msg *msg);
void mem_settle(struct harp_core *k, uint32_t dev); /* grants, recalls or denies who waits */
void mem_dead(struct harp_core *k, struct client *c);
void mem_drained(struct harp_core *k, struct client *c, uint32_t dev);
void mem_tick(struct harp_core *k);
uint64_t mem_next(const struct harp_core *k);

/* recall.c */
int recall_settled(struct harp_core *k, uint32_t dev, uint32_t tenant, uint64_t mark, int foreign);
int recall_all_settled(struct harp_core *k, uint32_t dev, uint32_t asker, uint64_t mark);
void recall_answered(struct harp_core *k, struct client *c, uint32_t dev, uint32_t seq);
void recall_dead(struct harp_core *k, struct client *c, uint32_t dev);
void recall_tick(struct harp_core *k, uint32_t dev);
uint64_t recall_next(const struct harp_core *k, uint32_t dev);

/* time.c */
void time_message(struct harp_core *k, struct client *c, const struct harp_msg *msg);
void time_dead(struct harp_core *k, struct client *c); /* while its holds are still those of life */
void time_company(struct harp_core *k, uint32_t dev);  /* who is on the device has changed */
void time_pick(struct harp_core *k, uint32_t dev);
void time_tick(struct harp_core *k);
uint64_t time_next(const struct harp_core *k);

/* policy_drr.c: weights, virtual time, caps. Pure arithmetic on uses. */
uint64_t drr_weight(const struct harp_core *k, uint32_t dev, uint32_t tenant);
void drr_refill(struct use *u, uint64_t now);
int drr_may_run(const struct harp_core *k, const struct use *u);
uint64_t drr_ready_ns(const struct harp_core *k, const struct use *u); /* capped: when it may run */
uint64_t drr_quantum_ns(const struct harp_core *k, const struct use *u);
void drr_arrive(struct harp_core *k, uint32_t dev, uint32_t tenant);
void drr_charge(struct harp_core *k, uint32_t dev, uint32_t tenant, uint64_t alone_ns,
                uint64_t beside_ns);
int32_t drr_pick(struct harp_core *k, uint32_t dev, uint32_t *eligible);
int drr_ahead(const struct harp_core *k, uint32_t dev, uint32_t tenant, uint32_t holder,
              uint64_t held_ns);

#endif

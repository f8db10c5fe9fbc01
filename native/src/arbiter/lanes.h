/* SPDX-License-Identifier: Apache-2.0
 *
 * Engine time: what the core knows of it, and the calls between the files that share it out.
 *
 * Each device has two lanes of time (enum harp_lane), scheduled apart. On a lane one *turn* is
 * current: the interval in which the processes of one tenant may launch. Beside it the turn before
 * may still drain. Nothing else launches or drains, but for holders that were given up.
 */
#ifndef HARP_ARBITER_LANES_H
#define HARP_ARBITER_LANES_H

#include "core.h"

#define HARP_PPM 1000000u

/* A holder past its end is given up so long after its last word; and in any case. */
#define HARP_OVERDUE_NS 500000000ull
#define HARP_HUNG_NS    10000000000ull

/* Most a tenant can owe; depth of the cap's token bucket; how long after its last work a tenant's
 * weight counts; queued work of an open-ended turn in company, and of anyone's beside a tenant of
 * class latency. */
#define HARP_DEBT_NS   1000000000ull
#define HARP_BUCKET_NS 50000000ll
#define HARP_ACTIVE_NS 100000000ull
#define HARP_WINDOW_NS 4000000ull

/* A holder keeps its quantum at least so long; less than this left of one is not worth an OPEN. */
#define HARP_PREEMPT_NS 1000000ull
#define HARP_REJOIN_NS  200000ull

/* A best-effort tenant that waited so long runs once before standard ones. */
#define HARP_STARVE_NS 1000000000ull

/* Hand-over: the earliest and the latest opening of a gate, before and after the announced end of
 * the work that runs; the steps of the lead: up after a gap, while it has never been too early and
 * from then on, and down after an overlap, so that about one hand-over in twenty overlaps; the
 * least time worth a timer; how late an announced end may come before its tenant is not believed
 * for some turns. */
#define HARP_LEAD_NS        500000ll
#define HARP_LAG_NS         1000000ll
#define HARP_LEAD_FIRST_NS  10000ll
#define HARP_LEAD_UP_NS     2000ll
#define HARP_LEAD_DOWN_NS   40000ll
#define HARP_LEAD_PUSHED_NS 160000ll
#define HARP_TICK_NS        20000ull
#define HARP_MISSED_NS      200000ull
#define HARP_MISSES         4

/* Best-effort windows beside a tenant of class latency: how long that one may find the device
 * taken, and bounds, start and step of the window. */
#define HARP_TARGET_NS     500000ull
#define HARP_BEST_LEAST_NS 100000ull
#define HARP_BEST_FIRST_NS 1000000ull
#define HARP_BEST_STEP_NS  50000ull

/* A gang's turn on one device waits so long past the end of a holder on another, then opens
 * beside it: what drains there may wait for what waits here. */
#define HARP_GANG_NS 10000000ull

struct gate {
    uint64_t epoch;   /* of its last OPEN */
    uint64_t ends_ns; /* announced: when its queued work ends; 0: not */
    uint8_t state;    /* enum harp_gate */
    uint8_t want;     /* has work and no open gate */
    uint8_t backlog;  /* announced: has more */
    uint8_t later;    /* suspended: will want when it is back */
};

struct account {
    uint32_t share_ppm, cap_ppm; /* 0: none */
    uint32_t wants;              /* live clients that want and are not overdue */
    int32_t prev, next;          /* among those whose weight counts, while `listed` */
    uint8_t listed;
    uint8_t group;    /* whose weights it was added to: 1 best effort, 0 others */
    uint8_t spent;    /* class latency: has used up its burst, half of it is not yet back */
    uint8_t distrust; /* turns in which its announced end is not believed */
    uint8_t missed;   /* overlaps in a row behind its announced ends */
    uint8_t led;      /* a successor's gate was once opened too early */
    int64_t lead_ns;  /* how long before its announced end the next gate is opened; < 0: after */
    uint64_t active_ns;
    uint64_t wait_since; /* 0: not waiting */
    uint64_t owed_ns;    /* class best effort: of the quantum it gets for having starved */
    uint64_t arrived;    /* number of its coming to want */
    uint64_t vtime;      /* ns of engine time times HARP_PPM / weight */
    int64_t tokens;      /* ns * HARP_PPM it may still run under its cap */
    uint64_t tokens_ns;
    uint64_t used_ns, estimated_ns, wait_ns;
    uint64_t refund_ns; /* paid, and used by a successor: off the next charge */
    uint32_t refund_of, refund_of_id;
};

/* Engine time from lo to hi in the arbiter's clock; lo == hi: none. */
struct interval {
    uint64_t lo, hi;
};

struct turn {
    int32_t tenant;     /* -1: none */
    uint32_t tenant_id; /* the slot may have gone to another since */
    uint32_t open;      /* clients whose gate is open or closing; 0: over */
    uint64_t epoch, opened_ns;
    uint64_t began_ns;   /* opened or renewed: where its quantum starts */
    uint64_t quantum_ns; /* 0: until CLOSE */
    uint64_t close_ns;   /* when CLOSE was sent; 0: not */
    uint64_t preempt_ns; /* when CLOSE will be sent; 0: not planned */
    uint64_t alive_ns;   /* when a holder last reported */
    uint64_t window_ns;
    uint64_t ends_ns;             /* all announced: the last of their ends; 0: not */
    uint64_t renewed_ns;          /* where its work was to end when it was renewed; 0: not */
    uint64_t wanted_ns;           /* since when the tenant had waited */
    uint64_t floor_ns;            /* time before that is somebody else's for good */
    struct interval work, before; /* its own, and its predecessor's once that is over */
    uint64_t first_ns;            /* where its work began, charged to it or not; 0: not known */
    int32_t after;                /* whose end, announced, it followed; -1: nobody's */
    uint32_t after_id;
    uint64_t gaps_ns;   /* idle time within `work` that is not charged */
    uint64_t shared_ns; /* overlap with successors that ended first */
    uint64_t charged_ns;
    uint8_t estimated; /* what is being charged was not measured */
    uint8_t sole;      /* nobody else could run when it began */
    uint8_t starved;   /* had waited too long: keeps its quantum */
    uint8_t follows;   /* of a gang: opened because of its turn on another device */
};

/* The last turn that was given up: its late yields are charged for what nobody else used. */
struct late {
    int32_t tenant;
    uint64_t epoch, opened_ns, charged_ns, others_ns;
};

struct lane {
    uint32_t dev, number; /* enum harp_lane */
    uint64_t epoch;
    uint64_t vtime;    /* of the tenant served last: where a newcomer starts */
    uint64_t furthest; /* highest vtime of a tenant */
    uint64_t charged_ns;
    uint64_t plan_ns; /* when the next gate is opened before the turn's end; 0: not planned */
    uint64_t best_window_ns;
    uint64_t expired_ns;                /* when the list was last gone through */
    uint32_t wanting, capped;           /* tenants that want; that are listed and have a cap */
    uint64_t share_sum[2];              /* of listed tenants, per group */
    uint32_t without[2], listed, first; /* `first`: tenant slot + 1; 0: none */
    struct turn turn;
    struct turn before; /* drains (open > 0), or is over and its share of an overlap is not known */
    struct late late;
    struct interval last; /* work of the turn that ended at last_over_ns, and had announced that */
    uint64_t last_over_ns;
    int32_t last_tenant;
};

struct harp_core;
struct client;
struct use;

/* Order of classes on a lane. */
enum rank { RANK_LATENCY, RANK_GANG, RANK_STARVED, RANK_STANDARD, RANK_BEST };

/* time.c: messages and time */
void time_want(struct harp_core *k, struct lane *l, struct client *c);
void time_message(struct harp_core *k, struct client *c, const struct harp_msg *msg);
void time_dead(struct harp_core *k, struct client *c); /* while its holds are still those of life */
void time_company(struct harp_core *k, uint32_t dev);  /* who is on the device has changed */
void time_device(struct harp_core *k, uint32_t dev);   /* is new */
void time_set(struct harp_core *k, uint32_t tenant, uint32_t dev, uint32_t share_ppm,
              uint32_t cap_ppm, uint32_t cls, int alone);
void time_forget(struct harp_core *k, uint32_t tenant);
void time_settle(struct harp_core *k); /* opens gates where nobody's is and somebody wants */
void time_tick(struct harp_core *k);
uint64_t time_next(const struct harp_core *k);

/* turns.c: gates and turns */
void turn_open(struct harp_core *k, struct lane *l, uint32_t tenant, uint32_t eligible,
               int follows);
void turn_join(struct harp_core *k, struct lane *l, struct client *c);
void turn_renew(struct harp_core *k, struct lane *l, uint32_t eligible, int follows);
void turn_close(struct harp_core *k, struct lane *l);
void turn_bound(struct harp_core *k,
                struct lane *l); /* open-ended until now: a quantum from now on */
void turn_left(struct harp_core *k, struct lane *l, struct turn *turn); /* by its last client */
void turn_promote(struct harp_core *k, struct lane *l); /* the current one to the one before */
void turn_give_up(struct harp_core *k, struct lane *l, struct turn *turn);
void turn_window(struct harp_core *k, struct lane *l); /* tells a window that has changed */
struct turn *turn_of(struct lane *l, uint64_t epoch);
uint64_t turn_end_ns(const struct turn *turn); /* planned; HARP_NEVER: open-ended */
uint64_t turn_overdue_ns(const struct turn *turn);
int turn_want(struct harp_core *k, struct lane *l, struct client *c);
void turn_unwant(struct harp_core *k, struct lane *l, struct client *c);
void turn_waits_no_more(struct harp_core *k, struct account *a);

/* handover.c: from one turn to the next */
void handover_announced(struct harp_core *k, struct lane *l);
void handover_decide(struct harp_core *k, struct lane *l);
void handover_now(struct harp_core *k, struct lane *l, uint32_t tenant, uint32_t eligible,
                  int follows);
void handover_consider(struct harp_core *k, struct lane *l, uint32_t tenant);
void handover_urgent(struct harp_core *k, struct lane *l);
void handover_learn(struct harp_core *k, struct lane *l, const struct turn *turn);
void handover_judge(struct harp_core *k, struct lane *l, const struct turn *ended);

/* charge.c: who pays for which interval */
void charge_report(struct harp_core *k, struct lane *l, struct turn *turn, uint64_t used_ns,
                   uint64_t age_ns, int estimated);
void charge_over(struct harp_core *k, struct lane *l, struct turn *turn);
void charge_before(struct harp_core *k, struct lane *l);
void charge_late(struct harp_core *k, struct lane *l, uint32_t tenant, uint64_t epoch,
                 uint64_t used_ns, uint64_t age_ns);
uint64_t charge_predicted(const struct turn *turn, uint64_t ends_ns);

/* caps.c: token buckets, and the list of tenants whose weight counts */
int cap_allows(const struct harp_core *k, const struct account *a);
void cap_refill(const struct harp_core *k, struct account *a);
void cap_charge(struct account *a, uint64_t ns);
uint64_t cap_ready_ns(const struct harp_core *k, const struct account *a);
uint64_t cap_quantum_ns(const struct harp_core *k, const struct account *a);
void active_enter(struct harp_core *k, struct lane *l, uint32_t tenant);
void active_leave(struct harp_core *k, struct lane *l, uint32_t tenant);
void active_expire(struct harp_core *k, struct lane *l);

/* classes.c */
uint64_t class_window_ns(const struct harp_core *k, const struct lane *l, uint32_t tenant,
                         uint64_t quantum_ns);
void class_observe(struct harp_core *k, struct lane *l, const struct turn *ended);

/* gang.c: turns of one tenant on several devices */
enum gang_role {
    GANG_NONE,   /* picked here like anyone */
    GANG_FOLLOW, /* its turn elsewhere runs: to be opened here next */
    GANG_WAIT,   /* waits to be picked on another device */
};
enum gang_role gang_role(const struct harp_core *k, const struct lane *l, uint32_t tenant);
int gang_contended(const struct harp_core *k, const struct lane *lead, uint32_t tenant);
void gang_opened(struct harp_core *k, struct lane *l, uint32_t tenant);
int gang_incomplete(const struct harp_core *k, const struct lane *l, uint32_t tenant);
int gang_defers(const struct harp_core *k, const struct lane *l);
void gang_closing(struct harp_core *k, struct lane *l, uint32_t tenant);
void gang_ended(struct harp_core *k, struct lane *l, uint32_t tenant);
uint64_t gang_quantum_ns(const struct harp_core *k, uint32_t tenant);
int gang_bound(struct harp_core *k, struct lane *l);
uint64_t gang_patience_ns(const struct harp_core *k, const struct lane *l);
void gang_impatient(struct harp_core *k, struct lane *l);

#endif

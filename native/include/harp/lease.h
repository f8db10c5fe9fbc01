/* SPDX-License-Identifier: Apache-2.0
 *
 * The lease protocol: what libharp (and any other accelerator client) says to harp-arbiter.
 *
 * Transport: a unix SOCK_SEQPACKET socket; one datagram is one `struct harp_msg`, always
 * HARP_MSG_BYTES long (but see SNAPSHOT), host byte order (both ends are on one machine). End of
 * file is death: the arbiter takes back all that the client held. A datagram of another length,
 * version or kind is answered by closing the connection.
 *
 * Versions: a connection begins in the oldest one understood. Its first message (a client's HELLO,
 * harpd's SUBSCRIBE) says in `c` the newest its sender speaks, 0 from version 1, where nobody reads
 * it. The answer's own version is the older of both sides' newest, and all that follows carries it;
 * whose first message has a newer version than the oldest means that one. What a version does not
 * know is never sent in it: messages are left out, fields are 0. From version 2 on a message of the
 * sender's range (client 1-31, arbiter 32-63) that the receiver does not know is ignored, and
 * logged once; one that harpd asks is answered by ERR with ENOSYS.
 *
 * Two kinds of socket:
 *   tenant socket  $HARP_GRANT/arbiter.sock, in a folder owned by the tenant's uid (mode 0700),
 *                  or one that only the containers see that have it mounted (HARP_ANY_UID).
 *                  Being able to connect to it IS the identity of the tenant.
 *   admin socket   $HARP_RUN/admin.sock, owned by the arbiter's uid (mode 0600): harpd alone.
 *
 * The arbiter knows nothing of CUDA: a device is a 16-byte id, memory is bytes, time is ns of
 * engine time. A client of another accelerator says HARP_KIND_NULL and takes leases all the same.
 *
 * This header is a wire format: sizes and offsets are asserted here and in tests/unit from Python.
 */
#ifndef HARP_LEASE_H
#define HARP_LEASE_H

#include <stdint.h>

#ifndef HARP_LEASE_VERSION /* tests build peers of older versions */
#define HARP_LEASE_VERSION 3u
#endif
#define HARP_LEASE_OLDEST 1u
#define HARP_MSG_BYTES    256u
#define HARP_MAX_DEVICES  16u
#define HARP_NAME_BYTES   64u
#define HARP_ALL_DEVICES  0xffffffffu
#define HARP_ANY_UID      0xffffffffu /* of a tenant: having its socket is enough, see ADD_TENANT */
#define HARP_MAX_WAITING  64u
#define HARP_TIME_LANES   2u
#define HARP_TOGETHER     32u

/* Longest wait for the answer to LEASE_MEM; for the answer to a recall; for harpd's DRAINED. */
#define HARP_MEM_WAIT_NS    5000000000ull
#define HARP_RECALL_NS      1000000000ull
#define HARP_DRAIN_ALONE_NS 5000000000ull
/* Longest wait for the answer to LEASE_MEM where somebody's memory is evicted for it. */
#define HARP_SWAP_WAIT_NS 60000000000ull

/* Lease granule: what a driver hands out physically. Leases are multiples of it. */
#define HARP_GRANULE_BYTES (2ull << 20)
/* Unit of leases of class HOST, which are no part of any device. */
#define HARP_PAGE_BYTES 4096ull

enum harp_op {
    /* --- client -> arbiter ------------------------------------------------------------------ */
    HARP_HELLO = 1,  /* a=kind, b=flags(HARP_HELLO_*), c=newest version spoken, pid=own pid as seen
                      * by itself, text=program. The first message; anything else before it closes
                      * the connection. With HARP_HELLO_LOOK also the last: uuid=device; the answer
                      * is its MEM_STATE and the end of the connection, nobody is told of it and it
                      * counts nowhere. */
    HARP_LEASE_MEM,  /* dev, seq, cls, bytes (multiple of the granule, not 0): asks for what is
                      * missing after the client's own unused lease. The answer carries seq and may
                      * take up to HARP_MEM_WAIT_NS (peers are asked for their slack, memory of the
                      * dead is waited for). At most HARP_MAX_WAITING unanswered per client. While
                      * memory of others is on its way off the device for it, the answer may take
                      * up to HARP_SWAP_WAIT_NS. cls=SWAP only with HARP_GRANT_OVERSUBSCRIBE */
    HARP_RETURN_MEM, /* dev, cls, bytes (multiple of the granule): gives back; no answer */
    HARP_MEM_INFO,   /* dev, seq: asks for HARP_MEM_STATE */
    HARP_ADOPT_MEM,  /* dev, cls, bytes: after HELLO with READOPT and before the first LEASE_MEM,
                      * says what is already held; no answer. Sent in one go after each DEVICE: the
                      * first message of another kind says that this was all. cls=SWAP: a=1 nothing
                      * of it is on the device */
    HARP_WANT_TIME,  /* dev, cls=lane: has work to launch and no open gate. Idempotent */
    HARP_YIELD_TIME, /* dev, cls=lane, epoch, a=1 still backlogged, used_ns, age_ns: gate closed and
                      * drained. The want-state travels in this message: without it the arbiter
                      * would see only the other tenant waiting and every weight would become 50/50.
                      * used_ns: first to last event since OPEN (gaps inside included), less what
                      * USED_TIME said already in this epoch. age_ns: how long before this message
                      * the last event ended. So the work lay in [now - age - used, now - age], and
                      * what several processes of a tenant say of one turn is charged as one
                      * interval, never as a sum. */
    HARP_USED_TIME,  /* dev, cls=lane, epoch, used_ns, age_ns, launches: metered since the last
                      * report. used_ns of another epoch than the open one is not charged; launches
                      * are counted always. b=1: used_ns is an estimate (one launch measured, many
                      * meant). a=1: the client launches no more in this turn; what it has queued is
                      * expected to end in window_ns from now, and c=1 says that it is still
                      * backlogged: the arbiter may renew the turn (OPEN_GATE with a=1) or open the
                      * next tenant's gate in time for its first launch to meet the last of this
                      * one's. Said at most once per OPEN. It is also the sign that a client whose
                      * gate closes lives and drains (say it every 100 ms then): a turn is given up
                      * half a second after the last one, ten seconds after its end in any case. */
    HARP_RECALLED,   /* dev, seq, bytes: answer to RECALL_MEM; `bytes` of class DEVICE are given
                      * back by this very message (no RETURN_MEM beside it; 0 = nothing to give).
                      * Answered at once, also while an own LEASE_MEM waits: lease put aside for
                      * that request is not unused. Who does not answer in HARP_RECALL_NS is
                      * waited for no more until it says something. */
    HARP_EVICTED,  /* dev, seq, bytes = what left the device, used_ns = how long it took, wait_ns =
                    * of that, what it will not take again (host memory was pinned): answer to EVICT.
                    * b=1: it could not, text=why; then all is on the device as before */
    HARP_RESTORED, /* dev, seq, bytes, used_ns: answer to RESTORE. b=1: it could not, text=why; then
                    * nothing of it is on the device and nothing is lost */

    /* --- arbiter -> client ------------------------------------------------------------------ */
    HARP_WELCOME = 32, /* a=number of HARP_DEVICE messages that follow, b=time lanes that the
                        * arbiter schedules (0, 1: all work goes by lane 0), c=number of memory
                        * classes that it knows (0: DEVICE and OVERHEAD; others are not to be asked
                        * for), epoch, client, text=tenant. From version 3: the tenant's page comes
                        * along, if it has one (SCM_RIGHTS: harp/profile.h); who reads without room
                        * for it does without */
    HARP_DEVICE,       /* dev, uuid, a=flags(HARP_GRANT_*), limit_bytes (0: none), capacity_bytes,
                        * b=share ppm (0: none), c=limit ppm (0: none), slack_bytes=most unused lease a
                        * client may keep, overhead_bytes=expected context overhead, d=enum harp_class,
                        * free_bytes=quota of pinned host memory (0: none).
                        * Only devices the tenant has a grant for (SET_TENANT) are announced; on
                        * another one everything is refused. Sent again whenever something changes
                        * or is granted later. epoch != 0: what this client called device epoch - 1
                        * is this device from now on, with all that it holds there (version 2). */
    HARP_MEM_GRANT,    /* dev, seq, cls, bytes */
    HARP_MEM_DENY,     /* dev, seq, cls, bytes=asked, a=enum harp_deny, limit_bytes, leased_bytes
                        * (whole tenant, with what drains), capacity_bytes, free_bytes */
    HARP_MEM_STATE,    /* dev, seq, limit_bytes, leased_bytes (whole tenant, with what drains),
                        * capacity_bytes, free_bytes = what the tenant could still lease now,
                        * overhead_bytes=expected context overhead, a=flags(HARP_GRANT_*). A device not
                        * granted: all 0. */
    HARP_RECALL_MEM,   /* dev, seq, bytes: give back unused lease now, up to so much: RECALLED */
    HARP_OPEN_GATE,  /* dev, cls=lane, epoch, quantum_ns (0: until CLOSE; else the client closes by
                      * itself so long after receipt, drains, yields; one launch is always allowed),
                      * window_ns (bound of queued predicted work, 0: none). a=1: changes
                      * quantum (from receipt on) and window of the turn `epoch` that is open or
                      * closing, which goes on; who has yielded meanwhile ignores it (the two
                      * crossed on the way). */
    HARP_CLOSE_GATE, /* dev, cls=lane, epoch: stop launching, drain, then YIELD_TIME. Ignored by a
                      * client whose gate of that epoch is closed (the two crossed on the way). */
    HARP_EVICT,   /* dev, seq: nothing of the client runs there (one that was stopped and given up
                   * closes its gate and drains first); all its SWAP memory is to leave the device:
                   * EVICTED. Also sent, with nothing to move, before the first grant of SWAP memory
                   * to a client whose tenant is away */
    HARP_RESTORE, /* dev, seq: bring it all back: RESTORED. The gate opens only after that */

    /* --- harpd -> arbiter (admin socket). Each is answered by HARP_OK or HARP_ERR with its seq --
     */
    HARP_ADD_DEVICE = 64, /* seq, uuid, capacity_bytes, overhead_bytes; OK carries dev. A known uuid
                           * gets the new numbers. Device held by another arbiter: ERR with a=EBUSY,
                           * pid, uid, text=its run folder (empty when longer than the text: then
                           * read LOCK_DIR/device-UUID.lock: "pid uid run_dir") */
    HARP_ADD_TENANT,      /* seq, tenant (0: arbiter chooses), uid, text=name; one listening fd by
                           * SCM_RIGHTS, from version 3 its page (harp/profile.h) as a second one;
                           * a page that is not said again stays. Known id: EEXIST, unless uid and name
                           * are the same: then the new socket replaces the old one and clients stay. Its
                           * clients are of that uid or root's; with HARP_ANY_UID, which is nobody's, of
                           * any: the folder around its socket says who can reach it (an arbiter that
                           * does not know it lets root alone in) */
    HARP_SET_TENANT,      /* seq, tenant, dev, limit_bytes, b=share ppm, c=limit ppm,
                           * d=class(HARP_CLASS_*), a=flags(HARP_GRANT_*), free_bytes=quota of
                           * pinned host memory, all devices together (0: none, the last one said
                           * holds), overhead_bytes=of its contexts, what comes beside the limit:
                           * what they cost beyond that counts against it (0: none of it does; OK
                           * says it back, 0 by an arbiter that does not know it); before or after
                           * the first client. Makes the device visible to the tenant, even with
                           * all limits 0. In force within one quantum */
    HARP_DEL_TENANT,      /* seq, tenant: clients are disconnected, leases drain */
    HARP_DRAINED,         /* seq, client, dev (HARP_ALL_DEVICES: all of them): the device no longer
                           * lists the dead client's pid. Unknown or gone client: OK all the same */
    HARP_SET_OVERHEAD, /* seq, client, dev, bytes: all that the device says this client holds beyond
                        * its leases of class DEVICE (contexts, code). Charged against the
                        * capacity as far as it is more than its leases of class OVERHEAD.
                        * limit_bytes: of these, what counts against the tenant's limit too */
    HARP_SNAPSHOT,     /* seq: answered by SNAP_* messages and then OK. From version 2: a=1 asks
                        * for the tenants' listening sockets, from version 3 a=3 for those and their
                        * pages. From version 3: b=1 says that rows
                        * may come together from now on, up to HARP_TOGETHER of them in a datagram,
                        * one after the other: a picture of many is many syscalls else */
    HARP_SUBSCRIBE,    /* seq, a=1 on, 0 off: EVENT_* from now on; c=newest version spoken. While
                        * someone is subscribed the dead drain until DRAINED; while nobody is, they
                        * drain after HARP_DRAIN_ALONE_NS */
    HARP_SHUTDOWN,     /* seq: arbiter ends; clients keep what they hold. From version 2: a=1 hands
                        * over: SNAP_* of the moment after which nothing is granted, and then OK */
    HARP_SUSPEND = 73, /* from version 2. seq, tenant, a=phase. 1: its gates close and stay closed;
                        * nobody waits for an answer of its clients. 2: its memory has left dev
                        * (ALL_DEVICES: all): what is leased no longer counts against the capacity,
                        * still against its limit; of its clients, who holds a context may lease on
                        * (it is stopped in the driver), who holds none waits. 3, instead of 2: no
                        * driver stops them; their SWAP memory is evicted (SNAP_RESIDENCY tells),
                        * the rest stays and counts. Said again: OK; what was reserved for its
                        * return is given back */
    HARP_RESUME =
        74, /* seq, tenant, dev, b=device it comes back to, a=phase. 1: reserves there what
             * it holds on dev. EAGAIN: peers are asked for slack, or memory of the dead
             * is awaited; ask again. ENOMEM: text=what is missing. 2: it is back: leases
             * lie on b from now on, its clients hear of it (DEVICE with epoch), the
             * reservation ends. Of a device it never left: nothing. With the last device
             * its gates may open. 3: the reservation is given back; still suspended */
    HARP_EXPECT = 75, /* from version 2. seq, tenant, pid, dev, bytes (classes DEVICE and SWAP,
                       * there), overhead_bytes, text=program: a process that held so much under the
                       * arbiter before. Charged as what drains is, until it comes back and adopts
                       * (or DRAINED). a=1: limit_bytes is the most of class DEVICE that it may
                       * adopt there. One client for all devices; OK carries it */

    /* --- arbiter -> harpd -------------------------------------------------------------------- */
    HARP_OK = 96,     /* seq, dev/tenant/client where one was made */
    HARP_ERR,         /* seq, a=errno, text=what is wrong and what to do */
    HARP_SNAP_DEVICE, /* dev, uuid, capacity_bytes, leased_bytes (class DEVICE, and SWAP that is on
                       * the device; live), bytes (all that drains), overhead_bytes, free_bytes,
                       * tenant whose gate is open (0: none), epoch */
    HARP_SNAP_TENANT, /* tenant, uid, text=name, a=number of clients, b=what comes along by
                       * SCM_RIGHTS, in this order: 1 its listening socket, 2 its page (version 3)
                       */
    HARP_SNAP_USE,    /* tenant, dev, limit_bytes, b=share ppm, c=limit ppm, d=class, leased_bytes
                       * (classes DEVICE and SWAP, live), bytes (the same that drain), overhead_bytes,
                       * peak_bytes, used_ns, copy_ns, launches, wait_ns, a=1 wants now, denials,
                       * estimated_ns (of used_ns, what was not measured: sampled while alone, or
                       * split among tenants whose gates were open together), capacity_bytes=quota
                       * of pinned host memory, free_bytes=what is pinned (the whole tenant's, the
                       * same in each of its rows), slack_bytes=of its contexts, what comes beside
                       * the limit (SET_TENANT) */
    HARP_SNAP_CLIENT, /* client, tenant, uid, pid (as the arbiter sees it), b=pid as it sees itself,
                       * a=kind, d=enum harp_client_state, text=program */
    HARP_SNAP_LEASE,  /* client, tenant, dev, leased_bytes (class DEVICE, and SWAP as far as it is
                       * on the device), overhead_bytes (leased and corrected),
                       * a=1 wants, b=enum harp_gate; only where one of them is not 0. bytes
                       * (class OVERHEAD, leased), limit_bytes (of overhead_bytes, what counts
                       * against the limit), epoch (changes of its leases so far) */
    HARP_EVENT_CLIENT, /* as SNAP_CLIENT, on join and death: d tells which */
    HARP_EVENT_DENY,   /* tenant, client, dev, a=enum harp_deny, bytes, limit_bytes, leased_bytes */
    HARP_SNAP_RESIDENCY, /* tenant, dev, a=enum harp_residency, b=1 some of it could not leave and
                          * stays, c=flags (HARP_GRANT_*), leased_bytes (class SWAP, live), bytes
                          * (of it on the device), wait_ns = how long it has been away in all,
                          * window_ns = for how long it has been away now, used_ns = time spent
                          * swapping in all, launches = number of swaps, quantum_ns = its shortest
                          * stay. Only for tenants with HARP_GRANT_OVERSUBSCRIBE or such memory */
    HARP_SNAP_TIME,      /* from version 3. tenant, dev, of lane COMPUTE, as it is now: a=weight ppm
                          * (what the policy gives it of the device while all that are active want; 0:
                          * the policy knows no weights), b=clients whose gate is open, closing or
                          * overdue, c=flags(HARP_STANDING_*). used_ns: engine time by which it is behind
                          * the tenant served last, copy_ns: by which it is ahead (one of them is 0; both
                          * bounded). wait_ns: what its limit lets it run at once, quantum_ns: what it
                          * ran beyond it (the same). window_ns: for how long what its clients announced
                          * as queued is expected to run yet */
};

enum harp_kind { HARP_KIND_CUDA = 1, HARP_KIND_NULL = 2 };

enum harp_mem_class {
    HARP_MEM_DEVICE = 0,   /* against the tenant's limit and the device's capacity */
    HARP_MEM_OVERHEAD = 1, /* contexts and code: against the capacity; beyond what SET_TENANT says
                            * comes beside the limit, against that as well */
    HARP_MEM_HOST = 2,     /* pinned host memory: against the tenant's own quota, on no device;
                            * multiples of HARP_PAGE_BYTES, dev = any that is granted */
    HARP_MEM_SWAP = 3,     /* device memory that can leave the device: against the limit together
                            * with DEVICE, against the capacity only while the tenant is resident
                            * there */
    HARP_MEM_CLASSES = 4,
};

enum harp_deny {
    HARP_DENY_LIMIT = 1,    /* tenant's limit reached */
    HARP_DENY_CAPACITY = 2, /* device full */
    HARP_DENY_UNKNOWN = 3,  /* no such device */
    HARP_DENY_DRAINING = 4, /* memory of the dead was not back in time */
    HARP_DENY_BUSY = 5,     /* too many unanswered questions of this client or tenant */
};

enum harp_client_state { HARP_CLIENT_LIVE = 1, HARP_CLIENT_DRAINING = 2, HARP_CLIENT_GONE = 3 };

/* State of a client's gate on a device, as the arbiter believes it. OVERDUE: it neither yielded nor
 * died in time (stopped, or a kernel of more than half a second); others go on without it. */
enum harp_gate {
    HARP_GATE_CLOSED = 0,
    HARP_GATE_OPEN = 1,
    HARP_GATE_CLOSING = 2,
    HARP_GATE_OVERDUE = 3,
};

/* Where a tenant's SWAP memory is. Its gates on the device are open only while it is resident. */
enum harp_residency {
    HARP_RESIDENT = 1,
    HARP_EVICTING = 2,
    HARP_AWAY = 3,
    HARP_RESTORING = 4,
    HARP_SUSPENDED = 5,
};

/* The two accounts of time on a device. Shares and limits are of COMPUTE; COPY is a fair queue of
 * its own. */
enum harp_lane { HARP_LANE_COMPUTE = 0, HARP_LANE_COPY = 1 };

#define HARP_STANDING_CREDIT                                                                       \
    1u /* SNAP_TIME: the policy keeps an account, used_ns and copy_ns say something */
#define HARP_STANDING_LIMIT 2u /* it has a limit: wait_ns and quantum_ns do */

enum harp_class { HARP_CLASS_STANDARD = 0, HARP_CLASS_LATENCY = 1, HARP_CLASS_BEST_EFFORT = 2 };

#define HARP_GRANT_NO_GANG                                                                         \
    1u /* turns on this device do not wait for those on the tenant's others */
#define HARP_GRANT_OVERSUBSCRIBE                                                                   \
    2u /* the tenant's memory there may leave the device while others have it */

#define HARP_HELLO_READOPT 1u /* reconnect: ADOPT_MEM messages follow */
#define HARP_HELLO_LOOK    2u /* one question by who uses no device: see HELLO */
#define HARP_HELLO_ENDS                                                                            \
    4u /* with READOPT: a MEM_INFO with seq=0 says at once that this was all                       \
        */

struct harp_msg {
    uint16_t version; /* HARP_LEASE_OLDEST to HARP_LEASE_VERSION */
    uint16_t op;      /* enum harp_op */
    uint32_t seq;     /* echo of the asker's number; 0 in pushes */
    uint32_t dev;     /* index given by HARP_DEVICE / ADD_DEVICE */
    uint32_t cls;     /* enum harp_mem_class; of time: enum harp_lane */
    uint32_t tenant;
    uint32_t client;
    int32_t pid;
    uint32_t uid;
    uint32_t a, b, c, d; /* small operands, as said per op */
    uint64_t bytes;      /* 48 */
    uint64_t limit_bytes;
    uint64_t leased_bytes;
    uint64_t peak_bytes;
    uint64_t free_bytes;
    uint64_t capacity_bytes;
    uint64_t overhead_bytes;
    uint64_t slack_bytes;
    uint64_t epoch; /* 112: gate epoch; fences old grants */
    uint64_t used_ns;
    uint64_t copy_ns;
    union {
        uint64_t wait_ns;
        uint64_t age_ns;
    };
    union {
        uint64_t quantum_ns;
        uint64_t estimated_ns;
    };
    uint64_t window_ns;
    uint64_t launches;
    uint64_t denials;
    uint8_t uuid[16];           /* 176 */
    char text[HARP_NAME_BYTES]; /* 192: NUL-terminated UTF-8 */
};

_Static_assert(sizeof(struct harp_msg) == HARP_MSG_BYTES, "harp_msg is a wire format");
_Static_assert(__builtin_offsetof(struct harp_msg, bytes) == 48, "harp_msg is a wire format");
_Static_assert(__builtin_offsetof(struct harp_msg, epoch) == 112, "harp_msg is a wire format");
_Static_assert(__builtin_offsetof(struct harp_msg, uuid) == 176, "harp_msg is a wire format");
_Static_assert(__builtin_offsetof(struct harp_msg, text) == 192, "harp_msg is a wire format");

#endif

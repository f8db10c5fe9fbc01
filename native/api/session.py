# SPDX-License-Identifier: Apache-2.0
# fmt: off
"""What a remote session says beside calls of the driver API: rows of the same kind.

They go through the same codec, with numbers of the same list. `reverse` ones are the worker's to the
client; there, "in" is what the worker says.
"""

from __future__ import annotations

from native.api.model import Cls, Function, Gate, Type, fn, struct

__all__ = ["ATTRIBUTES", "ROWS", "TYPES"]

#: Device attributes that a snapshot has: numbers 0 to this, less one. Later ones are asked for, and
#: those that its driver has not answered: `answered` has a bit for each, the lowest first.
ATTRIBUTES = 160

TYPES: tuple[Type, ...] = (
    struct("struct harp_wire_packed", 16, """
        uint64_t bytes; const void *data;""",
        wire="data=[bytes]"),
    struct("struct harp_wire_image", 40, """
        unsigned char sha256[32]; uint64_t bytes;"""),
    struct("struct harp_wire_device", 992, f"""
        char name[256]; char pci_bus_id[16]; unsigned char uuid[16]; char luid[8];
        unsigned int luid_mask, compute_major, compute_minor, primary_flags;
        size_t total_bytes, free_bytes; int attributes[{ATTRIBUTES}];
        unsigned char answered[{ATTRIBUTES // 8}];"""),
    struct("struct harp_wire_progress", 16, """
        CUstream stream; uint64_t seq;"""),
)

ROWS: tuple[Function, ...] = (
    # First of all: what the client answers without asking. The arena is where device addresses of
    # this session lie, once agreed.
    fn("harpSession", Cls.OTHER, Gate.NONE, """
        harpSession - (unsigned int *devices, int *driver_version, int *loading_mode)""",
        remote="sync"),
    fn("harpSnapshot", Cls.OTHER, Gate.NONE, """
        harpSnapshot - (unsigned int device, struct harp_wire_device *facts)""",
        remote="sync"),
    fn("harpArena", Cls.OTHER, Gate.NONE, """
        harpArena - (uint64_t base, uint64_t bytes, uint64_t *agreed)""",
        remote="sync"),
    # Memory that the client may hand out by itself, so an allocation without a round trip still
    # says at once that there is none: an allocation of the driver's, and as many spare ones of its
    # size as the worker sees fit; 0: no more. A spare one is the program's from harpMemTake on,
    # and by harpMemKeep one of the program's is spare, waited for and wiped as if freed.
    fn("harpMemLease", Cls.OTHER, Gate.NONE, """
        harpMemLease - (uint64_t bytes, unsigned int count, uint64_t *addresses)""",
        remote="sync addresses=out[count]"),
    fn("harpMemTake", Cls.OTHER, Gate.NONE, """
        harpMemTake - (uint64_t address)""",
        remote="async"),
    fn("harpMemKeep", Cls.OTHER, Gate.NONE, """
        harpMemKeep - (uint64_t address)""",
        remote="async"),
    # The worker's: little is left of the device, so what is spare is wanted back.
    fn("harpMemRecall", Cls.OTHER, Gate.NONE, """
        harpMemRecall - (uint64_t free_bytes)""",
        remote="async reverse"),
    # A cuMemcpyDtoH that the program has not called, but will: no point of observation.
    fn("harpMemPeek", Cls.OTHER, Gate.NONE, """
        harpMemPeek - (void *to, CUdeviceptr from, size_t bytes)""",
        remote="sync to=out[bytes]"),
    # Images by content: asked for first, sent once a server. Another tenant's is as if not there.
    fn("harpImageFind", Cls.OTHER, Gate.NONE, """
        harpImageFind - (const struct harp_wire_image *image, unsigned int *found)""",
        remote="sync"),
    fn("harpImagePut", Cls.OTHER, Gate.NONE, """
        harpImagePut - (const struct harp_wire_image *image, const void *data, uint64_t bytes)""",
        remote="sync data=send[bytes]"),
    # The worker's: the client runs the function; the stream goes on when it has answered.
    fn("harpHostCall", Cls.OTHER, Gate.NONE, """
        harpHostCall - (uint64_t ticket, CUstream stream, CUresult status)""",
        remote="sync reverse"),
    # The first failure of calls that nobody waited for, and which it was: frame, place in its pack.
    fn("harpLatched", Cls.OTHER, Gate.NONE, """
        harpLatched - (uint64_t seq, unsigned int place, unsigned int op, CUresult result)""",
        remote="async reverse"),
    # How far streams have come: up to which seq all their calls have ended.
    fn("harpProgress", Cls.OTHER, Gate.NONE, """
        harpProgress - (const struct harp_wire_progress *streams, unsigned int count)""",
        remote="async reverse streams=in[count]"),
    # Logs of the JIT, before the reply to the call that made them. which: 0 info, 1 errors.
    fn("harpJitLog", Cls.OTHER, Gate.NONE, """
        harpJitLog - (unsigned int which, const char *text)""",
        remote="async reverse"),
    # A link keeps the array of option values that it was made with: what a call has changed in it,
    # before its reply.
    fn("harpLinkValues", Cls.OTHER, Gate.NONE, """
        harpLinkValues - (CUlinkState state, const uint64_t *values, unsigned int count)""",
        remote="async reverse values=in[count]"),
    # The lease has run out, or the node drains: no call is answered after so long.
    fn("harpRevoked", Cls.OTHER, Gate.NONE, """
        harpRevoked - (unsigned int deadline_ms, const char *reason)""",
        remote="async reverse"),
)

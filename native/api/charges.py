# SPDX-License-Identifier: Apache-2.0
"""What each charge rule means: how much, from when, until when. COVERAGE.md shows it.

Sizes are after the driver's own rounding, in granules of 2 MiB unless the rule says otherwise; a
lease is taken before the driver is asked, so no limit is passed for a moment either. What a rule
cannot know (*) is in harpd's reconcile, which reads of each process what the device says.
"""

from __future__ import annotations

from dataclasses import dataclass

from native.api.model import Charge


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, as words."""

    amount: str
    taken: str
    back: str


RULES: dict[Charge, Rule] = {
    Charge.LINEAR: Rule(
        "the granules that its addresses touch; small ones share",
        "before the call, settled by the address",
        "after the driver freed it, or with its context",
    ),
    Charge.PITCH: Rule(
        "as linear, of pitch x height as returned",
        "before the call by a pitch of 512 bytes, settled by the driver's",
        "as linear",
    ),
    Charge.MANAGED: Rule(
        "all of it, wherever its pages are",
        "before the call",
        "as linear; not when pages leave the device",
    ),
    Charge.ARRAY: Rule(
        "what the driver says that the layout needs, else texels x bytes, each part to 64 KiB; "
        "sparse and deferred ones nothing (their memory is `physical`)",
        "before the call",
        "after it was destroyed, or with its context",
    ),
    Charge.PHYSICAL: Rule(
        "its size, to the device of its location; on the host: as `host`",
        "before the call",
        "after the last handle and the last mapping of this process are gone (*)",
    ),
    Charge.POOL: Rule(
        "what its pools have of the device, whatever is allocated from them; pools of managed "
        "memory as `managed`, of the host as `host`",
        "before the call the most that the pool may grow by, settled by what it then says",
        "when a pool says that it has less: after frees, waits and trims, or with its context",
    ),
    Charge.GRAPH: Rule(
        "what the device keeps for graphs: at most what the nodes of those that may run together "
        "ask for",
        "before a launch or an upload, settled by what the device then says",
        "after a trim (libharp's own too, before it refuses anything), or with its context",
    ),
    Charge.CONTEXT: Rule(
        "what a context of this device is known to cost, in class `overhead`: against the device, "
        "not against the limit",
        "before the call",
        "when the context is gone",
    ),
    Charge.CODE: Rule(
        "variables and code by what the image says (PTX: half of a kernel's text; objects: their "
        "sections; compressed ones are not seen (*)), small ones together to granules",
        "variables before the module is loaded, code before a kernel is (lazily: at its first use "
        "by name; all at once where loading is eager)",
        "after it was unloaded, or with its context",
    ),
    Charge.LIMIT: Rule(
        "what stack (of all threads that can be resident), heap and printf buffer are beyond the "
        "context's first values; the stack also of the largest frame launched since (*: what "
        "depth and number of launches from kernels take, and frames in conditional nodes)",
        "before the call, settled by what the driver made of the value; for a frame before its "
        "first launch, also a graph's",
        "after a call that lowers it, or with the context; what a failed launch did not take, at "
        "once",
    ),
    Charge.HOST: Rule(
        "pages of 4 KiB, against the tenant's quota of pinned host memory, no device",
        "before the call",
        "after the driver freed or unregistered it, or with its context",
    ),
    Charge.MAPPING: Rule(
        "nothing: a reference to memory that is charged where it was made",
        "-",
        "while it is held, the process that made it stays charged; another process's reference "
        "is not seen by libharp: what its maker has let go of is charged to its holder (*)",
    ),
    Charge.FOREIGN: Rule(
        "external memory: its size as the program says, though another interface made it: else "
        "nothing would hold it to the limit. Graphics: nothing (*)",
        "before the import",
        "after it was destroyed",
    ),
    Charge.NOTHING: Rule("nothing", "-", "-"),
}

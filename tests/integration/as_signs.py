# SPDX-License-Identifier: Apache-2.0
"""NvmlSigns in a process of its own: the software GPU's libraries read their folder's name once.

argv: the NVML library. For each line of input, "wait SECONDS" or "probe", prints one line of JSON:
[[place of the GPU, event], ...].
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from device_plugin.health import Event, Lost, Probe, Xid
from device_plugin.signs import NvmlSigns
from harp.discovery import Nvml


def word(event: Event) -> str:
    match event:
        case Xid(code):
            return f"xid {code}"
        case Lost():
            return "lost"
        case Probe(good):
            return "good" if good else "bad"


def main() -> None:
    library = Path(sys.argv[1])
    nvml = Nvml(library)
    uuids = [device.uuid for device in nvml.devices()]
    nvml.close()
    signs = NvmlSigns(library, uuids)
    print(json.dumps(len(uuids)), flush=True)
    for line in sys.stdin:
        what, _, seconds = line.strip().partition(" ")
        seen = signs.wait(float(seconds)) if what == "wait" else signs.probe(uuids).items()
        told = [[uuids.index(uuid), word(event)] for uuid, event in seen]
        print(json.dumps(told), flush=True)
    signs.close()


main()

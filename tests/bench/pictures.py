# SPDX-License-Identifier: Apache-2.0
"""Makes README's pictures of a real harpd on the software GPU: `python -m tests.bench.pictures`.

Writes deploy/top.svg (what `harp top` draws on a terminal of 100 x 18) and deploy/page.png (the
page of `harp daemon --web` in Debian's Chromium). Takes a minute; needs what tests/check has built.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
import time
from pathlib import Path

from harp.cli.feed import Feed
from harp.cli.top_app import TopApp
from harp.client import Client
from tests.integration.chromium import Page, browser
from tests.integration.machine import ROOT, Machine, machine, wait_for
from tests.integration.shim_world import compile_c

#: options of each tenant, and for how many µs each of its kernels runs
_TENANTS = {
    "train": (("--mem", "16GiB", "--share", "50%"), 300),
    "infer": (("--mem", "2GiB", "--share", "20%", "--class", "latency"), 100),
    "sweep": (("--mem", "3GiB", "--share", "30%", "--limit", "60%"), 500),
}
_NOTEBOOK_MIB = 3000
_SETTLE_S = 20.0
_RUN_S = "120"


def main() -> None:
    """See above."""
    with (
        machine(ROOT / "harp" / "_lib", HARP_SOFT_DEVICES="a100-40g") as box,
        tempfile.TemporaryDirectory() as folder,
    ):
        source = ROOT / "tests" / "integration" / "shim_busy.c"
        busy = compile_c(source, Path(folder) / "busy")
        box.start_harpd("--web", "0")
        for name, (options, micros) in _TENANTS.items():
            _works(box, busy, name, options, micros)
        box.gpu_tenant("--name", "notebook", "--mem", "4GiB", mib=_NOTEBOOK_MIB)
        (served,) = wait_for(lambda: box.events("web_served"), "harpd serves its page")
        with browser() as page:
            page.look(scheme="light", width=1200, height=1000)
            page.open(f"http://127.0.0.1:{served['port']}/")
            page.wait("document.querySelector('#link')?.textContent === 'live'")
            page.ask("document.querySelector('#window').value = '60'")
            drawn = asyncio.run(_top(box))
            _page(page)
    # Fonts are the reader's own: a picture may not ask another host for one.
    drawn = re.sub(r"@font-face\s*\{.*?\}", "", drawn, flags=re.DOTALL)
    (ROOT / "deploy" / "top.svg").write_text(drawn)


def _works(box: Machine, busy: Path, name: str, options: tuple[str, ...], micros: int) -> None:
    child = box.tenant("--name", name, *options, command=[str(busy), "deep", str(micros), _RUN_S])
    assert child.stdin
    assert child.stdout
    assert child.stdout.readline().startswith("ready"), child.communicate()
    child.stdin.write("\n")
    child.stdin.flush()


async def _top(box: Machine) -> str:
    app = TopApp(Feed(lambda: Client.connect(box.env), 0.5), 0.5)
    async with app.run_test(size=(100, 18)) as pilot:
        end_s = time.monotonic() + _SETTLE_S
        while time.monotonic() < end_s:
            await pilot.pause(0.5)
        return app.export_screenshot(title="harp top")


def _page(page: Page) -> None:
    page.wait("Number(document.querySelector('.time canvas').dataset.drawn) >= 12")
    page.picture(ROOT / "deploy" / "page.png")


if __name__ == "__main__":
    main()

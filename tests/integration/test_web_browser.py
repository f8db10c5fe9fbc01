# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser, of a real harpd: what is seen, by mouse, keyboard and in the dark.

Pictures are left in build/web.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Page, browser

from tests.integration.machine import ROOT, Machine, machine, wait_for

pytestmark = pytest.mark.slow
TOKEN = "a-token-of-this-test-alone"
NASTY = "<img src=x onerror=document.title='had'>"
#: dots of a canvas that are not as its corner is
PAINTED = """(name) => [...document.querySelectorAll(name)].map((canvas) => {
  const pen = canvas.getContext("2d");
  const dots = pen.getImageData(64, 8, canvas.width - 70, canvas.height - 30).data;
  let painted = 0;
  for (let at = 3; at < dots.length; at += 4) painted += dots[at] > 0;
  return painted / (dots.length / 4);
})"""


@pytest.fixture
def box(native_dir: Path) -> Iterator[Machine]:
    with machine(native_dir) as found:
        yield found


@pytest.fixture
def page() -> Iterator[Page]:
    with browser() as found:
        yield found


@pytest.fixture
def pictures() -> Path:
    folder = ROOT / "build" / "web"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def port(box: Machine) -> int:
    (served,) = wait_for(lambda: box.events("web_served"), "harpd serves")
    return int(served["port"])


def works(box: Machine, busy: Path, name: str, share: str, seconds: str = "90") -> None:
    child = box.tenant(
        *("--name", name, "--mem", "256MiB", "--share", share),
        command=[str(busy), "deep", "300", seconds],
    )
    assert child.stdout
    assert child.stdin
    assert child.stdout.readline().startswith("ready")
    child.stdin.write("\n")
    child.stdin.flush()


def test_two_tenants_are_seen_and_drawn(
    box: Machine, busy: Path, page: Page, pictures: Path
) -> None:
    box.start_harpd("--web", "0")
    works(box, busy, "first", "30%")
    works(box, busy, "second", "70%")
    box.gpu_tenant("--name", "holds", "--mem", "64MiB", mib=32)
    page.look(scheme="light", width=1200, height=1100)
    page.open(f"http://127.0.0.1:{port(box)}/")
    page.wait("document.querySelectorAll('#rows tr').length === 3")
    page.wait("document.querySelector('#link').textContent === 'live'")
    page.ask("document.querySelector('#window').value = '60'")
    page.wait("Number(document.querySelector('.time canvas').dataset.drawn) >= 12")
    names = page.ask("[...document.querySelectorAll('#rows th button')].map((b) => b.textContent)")
    assert names == ["second", "first", "holds"]  # by what they get
    assert page.ask("document.querySelector('#software').offsetHeight > 0")
    assert "(software)" in page.ask("document.querySelector('.device h2').textContent")

    # Both are drawn: the GPU is busy in all samples, and has about a fifth of the minute.
    (time_part,) = page.ask(f"({PAINTED})('.time canvas')")
    assert 0.1 < time_part < 0.9
    (held,) = page.ask(f"({PAINTED})('.held canvas')")
    assert held > 0.03
    said = page.ask("document.querySelector('.time canvas').getAttribute('aria-label')")
    assert "first" in said
    assert "second" in said

    # By keyboard alone: a sort, a tenant brought out, a look back in the chart.
    page.ask("document.querySelector('#columns [data-column=name] button').focus()")
    page.press("Enter")
    page.wait("document.querySelector('[data-column=name]').ariaSort === 'ascending'")
    page.wait("document.querySelector('#rows th button').textContent === 'first'")
    page.ask("document.querySelector('#rows th button').focus()")
    page.press("Enter")
    page.wait("document.querySelectorAll('#rows tr.chosen').length === 1")
    page.ask("document.querySelector('#pause').click()")  # nothing changes by itself
    said = "document.querySelector('.time output').textContent"
    page.ask("document.querySelector('.time canvas').focus()")
    now = page.ask(said)
    for _ in range(5):
        page.press("ArrowLeft")  # a hundredth of the minute each
    earlier = page.ask(said)
    assert earlier.split(": ")[0] != now.split(": ")[0]
    assert "first" in earlier
    page.press("Home")
    assert page.ask(said) == "no sample yet"
    page.press("Escape")
    assert page.ask(said) == now
    page.ask("document.querySelector('#pause').click()")
    page.picture(pictures / "light.png")
    page.ask("document.querySelector('#rows tr.chosen button').click()")
    page.look(scheme="dark", width=1200, height=1100)
    ground = page.ask("getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(20, 23, 26)"
    drawn = page.ask("document.querySelector('.time canvas').dataset.drawn")
    page.wait(f"document.querySelector('.time canvas').dataset.drawn !== '{drawn}'")
    page.picture(pictures / "dark.png")
    page.look(scheme="light", width=420, height=900)
    page.wait("document.querySelector('.time canvas').clientWidth < 420")
    assert page.ask("document.documentElement.scrollWidth <= 420")
    page.picture(pictures / "narrow.png")

    # Paused, it stands still; harpd gone, it says so, and it comes back by itself.
    page.ask("document.querySelector('#pause').click()")
    still = page.ask("document.querySelector('.time canvas').dataset.drawn")
    page.ask("new Promise((done) => setTimeout(done, 2500))")
    assert page.ask("document.querySelector('.time canvas').dataset.drawn") == still
    page.ask("document.querySelector('#pause').click()")
    assert page.complaints == []
    at = port(box)
    assert box.harp("daemon", "--stop").returncode == 0
    page.wait("document.querySelector('#link').textContent.includes('trying again')")
    box.start_harpd("--web", str(at))
    page.wait("document.querySelector('#link').textContent === 'live'")
    page.wait("document.querySelectorAll('#rows tr').length === 3")


def test_a_program_s_name_is_text(box: Machine, page: Page) -> None:
    """Tenants' names are checked by harpd; the names of programs are whatever their users wish."""
    box.start_harpd("--web", "0")
    box.gpu_tenant("--name", "a", "--mem", "64MiB", mib=2)
    page.open(f"http://127.0.0.1:{port(box)}/")
    page.wait("document.querySelectorAll('#rows tr').length === 1")
    # As harpd would tell it, through all that draws: the next state replaces it.
    page.ask(f"""{{
      const parse = JSON.parse, nasty = {NASTY!r};
      const evader = {{ pid: 1, gpu: 0, mem_bytes: 1, action: nasty }};
      JSON.parse = (text) => {{
        const told = parse(text);
        if (!told.tenants) return told;
        const names = {{ name: nasty, user: nasty, lease: true }};
        for (const one of told.tenants) Object.assign(one, names);
        told.uncovered = [{{ ...evader, program: nasty, user: nasty, tenant: nasty }}];
        return told;
      }};
    }}""")
    page.wait("document.querySelector('#rows th button').textContent.startsWith('<img')")
    page.wait("document.querySelector('#uncovered').textContent.includes('<img')")
    assert page.ask("document.querySelectorAll('img').length") == 0
    assert page.ask("document.title").startswith("HARP")
    assert page.complaints == []


def test_a_token_is_asked_for(box: Machine, page: Page) -> None:
    token = box.base / "token"
    token.touch(0o600)
    token.write_text(TOKEN)
    box.start_harpd("--web", "0", "--set", f"daemon.web_token={token}")
    page.open(f"http://127.0.0.1:{port(box)}/")
    for text, shown in (("wrong", "#refused"), (TOKEN, "#main")):
        page.wait("document.querySelector('#token')?.offsetHeight > 0")
        page.ask(f"document.querySelector('#token').value = {text!r}")
        page.ask("document.querySelector('#token').focus()")
        page.press("Enter")
        page.wait(f"document.querySelector('{shown}').offsetHeight > 0")
    page.wait("document.querySelector('#link').textContent === 'live'")
    assert page.ask("location.href.includes('wrong') || document.cookie.length > 0") is False

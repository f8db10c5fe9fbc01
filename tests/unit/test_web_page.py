# SPDX-License-Identifier: Apache-2.0
"""What the page makes of what it is told: its script's pure half, run by Node where there is one.

The whole page, in a browser: tests/integration/test_web_browser.py.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "harp" / "web" / "static" / "known.js"
SETUP = """
const page = require(process.argv[1]);
const known = page.nothing();
const used_bytes = { 0: 7 };
const sample = (n, points) => ({ n, at_s: 100 + n, span_s: 1, used_bytes, points, spans: [] });
const add = (...samples) => samples.forEach((one) => page.addSample(known, one));
const tenants = (...all) => { known.state = { tenants: all.map((series) => ({ series })) }; };
const told = (value) => process.stdout.write(JSON.stringify(value));
"""


def node(script: str) -> Any:
    """What a script tells."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("no node; remedy: install Debian's nodejs")
    done = subprocess.run(
        [program, "-e", SETUP + script, str(SCRIPT)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_stream_is_read_in_whatever_pieces_it_comes() -> None:
    text = (
        'retry: 2000\n\nevent: state\ndata: {"a":1}\n\nid: 4\nevent: sample\ndata: {"b":"é: x"}\n\n'
    )
    found = node(f"""
    const text = {json.dumps(text)}, whole = [];
    for (let size = 1; size < 30; size += 1) {{
      let rest = "", all = [];
      for (let at = 0; at < text.length; at += size) {{
        const [events, left] = page.events(rest + text.slice(at, at + size));
        rest = left;
        all.push(...events);
      }}
      whole.push([all, rest]);
    }}
    told(whole);
    """)
    for events, rest in found:
        assert rest == ""
        assert events == [
            {"event": "message", "data": "", "retry": 2000},
            {"event": "state", "data": '{"a":1}'},
            {"event": "sample", "data": '{"b":"é: x"}'},
        ]


def test_a_sample_is_taken_once_and_old_ones_go() -> None:
    numbers = node("""
    for (let n = 1; n <= 700; n += 1) add(sample(n, []));
    add(sample(5, []), sample(700, []));
    told([known.samples.length, known.samples[0].n, known.last]);
    """)
    assert numbers == [600, 101, 700]


def test_there_is_one_try_at_a_time_however_often_it_is_asked_for() -> None:
    most, tries, again = node("""
    let now = 0, most = 0, tries = 0;
    const kept = page.keeper(async () => {
      now += 1; tries += 1; most = Math.max(most, now);
      await new Promise((done) => setTimeout(done, 5));
      now -= 1;
      return tries % 3 ? null : undefined;
    }, async () => {});
    (async () => {
      const first = kept.run();
      await Promise.all([kept.run(), kept.run()]);
      await first;
      const until = tries;
      await kept.run();
      told([most, until, tries]);
    })();
    """)
    assert (most, tries, again) == (1, 3, 6)


def test_a_harpd_that_began_anew_is_tried_at_once_and_once() -> None:
    assert node("""
    const answers = [null, 0, null, 700, 0, 0, 0, null, 0, undefined], waits = [];
    const kept = page.keeper(async () => answers.shift(), async (ms) => { waits.push(ms); });
    kept.run().then(() => told(waits));
    """) == [2000, 0, 2000, 700, 0, 700, 0, 700, 0]


def test_a_span_that_grows_is_one_and_old_ones_go() -> None:
    spans = node("""
    page.addSpans(known, [[1, 0, 10, 11, 0.5], [2, 0, 10, 11, 0.5]], 11);
    page.addSpans(known, [[1, 0, 10, 12, 1.0]], 12);
    page.addSpans(known, [[1, 0, 3612, 3613, 1.0]], 3612);
    told([...known.spans.values()]);
    """)
    assert spans == [[1, 0, 10, 12, 1.0], [1, 0, 3612, 3613, 1.0]]


def test_a_colour_stays_with_its_tenant_and_comes_free_when_it_is_gone() -> None:
    first, second, third = node("""
    const slots = () => Object.fromEntries(known.slots);
    tenants(1, 2, 3); page.giveColours(known); const first = slots();
    tenants(3, 4); page.giveColours(known); const second = slots();
    tenants(...Array(12).keys()); page.giveColours(known);
    told([first, second, slots()]);
    """)
    assert first == {"1": 0, "2": 1, "3": 2}
    assert second == {"3": 2, "4": 0}
    assert (third["3"], third["4"]) == (2, 0)
    assert sorted(third.values()) == list(range(8))


def test_a_stack_is_of_one_gpu_and_window_and_all_without_a_colour_are_others() -> None:
    found = node("""
    add(sample(1, [[1, 0, 0.9, 5, 0]]),
        sample(2, [[2, 0, 0.2, 7, 0], [1, 0, 0.1, 5, 0], [1, 1, 0.7, 6, 0],
                   [9, 0, 0.3, 1, 0], [8, 0, 0.25, 1, 0]]),
        sample(3, [[1, 0, null, 5, null]]));
    known.slots.set(1, 0).set(2, 1);
    const asked = [[0, 2, 101.5, 103], [0, 3, 102.5, 103], [1, 2, 101.5, 102]];
    told(asked.map((one) => page.stacks(known, ...one)));
    """)
    time, memory, other = found
    assert time == [
        {
            "begin": 101,
            "end": 102,
            "parts": [[1, 0.1], [2, 0.2], [None, 0.55]],
            "unknown": False,
            "used": 7,
        },
        {"begin": 102, "end": 103, "parts": [], "unknown": True, "used": 7},
    ]
    assert [column["parts"] for column in memory] == [[[1, 5]]]
    assert [column["parts"] for column in other] == [[[1, 0.7]], []]


def test_the_timeline_shows_who_had_most_and_says_how_many_more() -> None:
    found = node("""
    for (let n = 1; n <= 15; n += 1) {
      page.addSpans(known, [[n, 0, 10, 20, n], [n, 1, 10, 20, 99]], 20);
    }
    page.addSpans(known, [[1, 0, 0, 5, 1000]], 20);
    told(page.lanes(known, 0, 6, 20));
    """)
    assert [row["series"] for row in found["rows"]] == list(range(4, 16))
    assert found["more"] == 3
    assert found["rows"][0] == {"series": 4, "used": 4, "spans": [[4, 0, 10, 20, 4]]}


def test_rows_are_sorted_by_a_column_and_the_unknown_comes_last() -> None:
    found = node("""
    const one = (series, name, ratio) => ({ series, name, uses: [{ used_ratio: ratio }] });
    const all = [one(1, "b10", null), one(2, "b9", 0.5), one(3, "a", 0.7), one(4, "c", 0.5)];
    const names = (by, down) => page.sorted(all, by, down).map((tenant) => tenant.name);
    told([names("name", false), names("gets", true), names("gets", false)]);
    """)
    assert found == [["a", "b9", "b10", "c"], ["a", "b9", "c", "b10"], ["b9", "c", "a", "b10"]]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("page.size(0)", "0 B"),
        ("page.size(null)", "-"),
        ("page.size(1536)", "1.5 KiB"),
        ("page.size(64 * 2 ** 20)", "64 MiB"),
        ("page.size(80 * 2 ** 30)", "80 GiB"),
        ("page.size(2000 * 2 ** 40)", "2000 TiB"),
        ("page.percent(0.30123)", "30.1 %"),
        ("page.percent(undefined)", "-"),
        ("page.seconds(12.34)", "12.3 s"),
        ("page.seconds(6000)", "100 min"),
    ],
)
def test_figures_have_units(call: str, text: str) -> None:
    assert node(f"told({call})") == text


def test_a_copy_does_not_change_with_what_comes() -> None:
    assert node("""
    add(sample(1, []));
    known.names.set(1, "a");
    const copy = page.copyOf(known);
    add(sample(2, []));
    known.names.set(2, "b");
    page.addSpans(known, [[1, 0, 10, 11, 0.5]], 11);
    told([copy.samples.length, copy.names.size, copy.spans.size, known.samples.length]);
    """) == [1, 1, 0, 2]


def test_a_moment_is_told_of_in_words_and_an_unknown_one_as_such() -> None:
    found = node("""
    const empty = page.since(known);
    add(sample(1, []), sample(2, []));
    const samples = page.since(known);
    page.addSpans(known, [[1, 0, 60, 70, 0.5]], 102);
    const marks = [[60, 70, "a"], [65, 71, "b"], [70, 80, "c"]];
    const words = [50, 61, 66, 70, 70.5, 90].map((at) => page.wordsAt(marks, at, 60, true));
    told([empty === Infinity, samples, page.since(known), words, page.wordsAt(marks, 66, 60, false),
      page.wordsAt(marks, 90, 60, false), page.wordsAt([], 5, Infinity, true)]);
    """)
    nothing, samples, spans, words, newest, none, unknown = found
    assert (nothing, samples, spans) == (True, 100, 60)
    assert words == ["no sample yet", "a", "a; b", "a; b", "b; c", ""]
    assert (newest, none, unknown) == ("b", "", "no sample yet")

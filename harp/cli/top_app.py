# SPDX-License-Identifier: Apache-2.0
"""The screen of `harp top`: tables, sparklines and keys. It alone imports textual.

Nothing is told by colour alone: what is wrong begins with "!" and is said in words. The two colours
are a blue and an orange that all kinds of eyes tell apart.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Sequence
from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.events import Resize
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Input, Static

from harp.api.v1 import control_pb2 as pb
from harp.cli.board import SORTS, Board, Line, alarms, details, devices, mark, tenants
from harp.cli.feed import Feed, News
from harp.cli.view import is_software, printable

__all__ = ["TopApp"]

_BLUE, _ORANGE = "#56b4e9", "#e69f00"
#: heading, width; in all with the scroll bar 80
_DEVICES = (
    ("GPU", 4), ("KIND", 9), ("USED", 8), ("OF", 8), ("PROMISED", 9), ("BUSY", 6),
    ("LATELY", 13), ("TURN", 11), ("NAME", 11),
)  # fmt: skip
_TENANTS = (
    (" TENANT", 14), ("USER", 7), ("G", 4), ("CLASS", 6), ("MEM", 8), ("LIMIT", 8), ("ASKED", 6),
    ("GETS", 6), ("SHARE", 11), ("MEMORY", 9),
)  # fmt: skip
#: columns that what a wider terminal has goes to, most of it to the first
_DEVICES_GROW, _TENANTS_GROW = (6, 8, 7), (0, 8, 9)
#: of its interval without a sample: something is wrong
_SILENT = 3
_HELP = """\
up, down   another tenant: more of it is below the table
tab        to the GPUs, where there are more than fit, and back
s          sort by the next of: used, mem, wait, name
u m w n    sort by used, mem, wait, name
r          the other way round
/          show those alone whose name, user, class or GPU (gpu0) has in it
           what you type; Enter keeps that, Escape shows all
space      stop the picture; again, and it goes on: the lines have gone on
?          this, and away with it
q          quit

ASKED      guaranteed part of each GPU's time
GETS       part that it had lately (daemon.history_s)
SHARE      the same, sample by sample, newest right; a full block is all
MEMORY     what it held of its limit; without one, of its GPUs
PROMISED   sum of what is guaranteed of the GPU's time
TURN       whose work may run now
!          something is wrong; what, is said below the table"""


class _Heard(Message):
    """There is news."""


class _Help(ModalScreen[None]):
    """What the keys and columns are."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark,escape,q,space,enter", "dismiss", "Back"),
    ]

    def compose(self) -> ComposeResult:
        """Its one text."""
        yield Static(Text(_HELP), id="help")


class TopApp(App[None]):
    """Shows what a feed says until it is quit."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { layout: vertical; }
    #status { height: 1; text-style: bold; }
    #said { height: auto; max-height: 2; text-style: bold reverse; display: none; }
    DataTable { scrollbar-size-vertical: 1; scrollbar-size-horizontal: 0; background: $background; }
    #devices { height: auto; max-height: 9; }
    Static { text-wrap: nowrap; text-overflow: ellipsis; }
    #tenants { height: 1fr; min-height: 4; }
    #details { height: auto; max-height: 6; color: $text-muted; }
    #alarms { height: auto; max-height: 4; text-style: bold; }
    #filter { height: 1; border: none; padding: 0; display: none; }
    _Help { align: center middle; }
    #help { width: 80; height: auto; border: round $primary; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", "Quit", show=False, priority=True),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("escape", "no_filter", "All", show=False),
        Binding("space", "pause", "Pause", key_display="space"),
        Binding("s", "next_sort", "Sort"),
        *(Binding(name[0], f"sort('{name}')", name, show=False) for name in SORTS),
        Binding("r", "reverse", "Reverse"),
        Binding("question_mark", "help", "Help", key_display="?"),
    ]

    def __init__(self, feed: Feed | None, interval_s: float, sort: str = "used") -> None:
        super().__init__()
        self._feed = feed
        self._interval_s = interval_s
        self._sort, self._reverse, self._needle = sort, False, ""
        self._board = Board()
        #: what is shown while it stands still; None: the board
        self._still: Board | None = None
        self._said = ""
        self._width = 80
        self._heard_s: float | None = None
        self._lock = threading.Lock()
        #: read and not shown yet; who fills it says so, once
        self._waiting: News | None = None

    def compose(self) -> ComposeResult:
        """The screen, from top to bottom."""
        yield Static(id="status")
        yield Static(id="said")
        yield DataTable[Text](id="devices", cell_padding=0, show_cursor=False)
        yield DataTable[Text](id="tenants", cell_padding=0, cursor_type="row")
        yield Static(id="details")
        yield Static(id="alarms")
        yield Input(id="filter", placeholder="name, user, class or GPU", select_on_focus=False)
        yield Footer()

    def on_mount(self) -> None:
        """Begin to read."""
        self._width = self.size.width
        self._head()
        self.query_one("#tenants").focus()
        self.set_interval(1.0, self._listen)
        self._show()
        if self._feed is not None:
            threading.Thread(target=self._read, args=(self._feed,), daemon=True).start()

    def on_unmount(self) -> None:
        """End to."""
        if self._feed is not None:
            self._feed.close()

    def on_resize(self, event: Resize) -> None:
        """A wider terminal has room for more of the past."""
        self._width = event.size.width
        self._head()
        self._show()

    def _read(self, feed: Feed) -> None:
        for news in feed.news():
            with self._lock:
                before = self._waiting
                if before is not None and news.reply is None:
                    self._waiting = News(before.reply, news.said)
                else:
                    self._waiting = news
            if before is None:
                self.post_message(_Heard())

    def on__heard(self) -> None:
        """Take what has come."""
        with self._lock:
            news, self._waiting = self._waiting, None
        if news is not None:
            self.take(news)

    def take(self, news: News) -> None:
        """Show a sample, or why there is none."""
        self._heard_s = time.monotonic()
        self._said = printable(news.said)
        if news.reply is not None:
            self._board.see(news.reply)
        self._show()

    def _listen(self) -> None:
        """Say it if nothing comes: a harpd that is stopped, or hangs, ends no connection."""
        if self._heard_s is None:
            return
        silent_s = time.monotonic() - self._heard_s
        if silent_s > _SILENT * max(1.0, self._interval_s):
            self._said = f"no word of harpd for {silent_s:.0f} s"
            self._show()

    def _head(self) -> None:
        """The columns, as wide as there is room for."""
        extra = max(0, self._width - 80)
        for name, columns, grow in (
            ("#devices", _DEVICES, _DEVICES_GROW),
            ("#tenants", _TENANTS, _TENANTS_GROW),
        ):
            table = self.query_one(name, DataTable)
            table.clear(columns=True)
            for number, (label, width) in enumerate(columns):
                more = extra // len(grow) if number in grow else 0
                table.add_column(Text(label), width=width + more, key=str(number))

    def _show(self) -> None:
        board = self._still or self._board
        shown = board.chosen(self._sort, self._needle, reverse=self._reverse)
        more = max(0, self._width - 80)
        lately = 12 + more // len(_DEVICES_GROW)
        share = 10 + more // len(_TENANTS_GROW)
        self._fill("#devices", devices(board, lately), (6,))
        self._fill("#tenants", tenants(board, shown, share, share - 2), (8, 9))
        self.query_one("#status", Static).update(self._status(board, shown))
        said = self.query_one("#said", Static)
        said.display = bool(self._said)
        said.update(Text(f"! {self._said}"))
        self._detail()
        lines = alarms(board.sample)
        if len(lines) > 4:
            lines = [*lines[:3], f"UNCOVERED: {len(lines) - 3} more: harp ps"]
        box = self.query_one("#alarms", Static)
        box.display = bool(lines)
        box.update(_lines(lines, _ORANGE))

    def _status(self, board: Board, shown: Sequence[pb.TenantSample]) -> Text:
        count = len(board.sample.tenants)
        parts = ["harp top", f"{count} tenant{'' if count == 1 else 's'}"]
        if self._needle:
            parts[-1] += f", {len(shown)} with {printable(self._needle)!r}"
        parts.append(f"by {self._sort}{' reversed' if self._reverse else ''}")
        if board.dropped:
            parts.append(f"{board.dropped} samples missed")
        if any(is_software(device) for device in board.sample.devices):
            parts.append("software GPU")
        if self._still is not None:
            parts.append("PAUSED")
        return Text(" | ".join(parts), no_wrap=True, overflow="ellipsis")

    def _fill(self, name: str, lines: Sequence[Line], sparks: Sequence[int]) -> None:
        """Make a table say this; whoever is marked in it stays so, wherever it goes."""
        table = self.query_one(name, DataTable)
        keys = [str(key.value) for key in table.rows]
        rows = [_row(line, sparks, table) for line in lines]
        if keys == [line.key for line in lines]:
            for line, row in zip(lines, rows, strict=True):
                for number, cell in enumerate(row):
                    if table.get_cell(line.key, str(number)) != cell:
                        table.update_cell(line.key, str(number), cell)
            return
        # Who looks at the top of the list looks at whoever is there.
        marked = keys[table.cursor_row] if 0 < table.cursor_row < len(keys) else ""
        top = table.scroll_y
        table.clear()
        for line, row in zip(lines, rows, strict=True):
            table.add_row(*row, key=line.key)
        places = [number for number, line in enumerate(lines) if line.key == marked]
        if places:
            table.move_cursor(row=places[0], scroll=False)
            table.scroll_to(y=top, animate=False)

    def _detail(self) -> None:
        board = self._still or self._board
        table = self.query_one("#tenants", DataTable)
        keys = [str(key.value) for key in table.rows]
        marked = keys[table.cursor_row] if table.cursor_row < len(keys) else ""
        found = [t for t in board.sample.tenants if mark(t) == marked]
        if found:
            lines = details(board, found[0])
        elif board.sample.tenants:
            lines = ["none is so called; Escape shows all"]
        else:
            lines = ["no tenants; harp run -- CMD makes one"] if board.sample.at_ns else [""]
        self.query_one("#details", Static).update(_lines(lines))

    def on_data_table_row_highlighted(self) -> None:
        """Say more of another tenant."""
        self._detail()

    def action_sort(self, name: str) -> None:
        """Sort by what a key says."""
        self._sort = name
        self._show()

    def action_next_sort(self) -> None:
        """Sort by the next."""
        names = list(SORTS)
        self.action_sort(names[(names.index(self._sort) + 1) % len(names)])

    def action_reverse(self) -> None:
        """The other way round."""
        self._reverse = not self._reverse
        self._show()

    def action_pause(self) -> None:
        """Stand still, or go on."""
        self._still = None if self._still else copy.deepcopy(self._board)
        self._show()

    def action_help(self) -> None:
        """Say what the keys are."""
        self.push_screen(_Help())

    def action_filter(self) -> None:
        """Ask what to show alone."""
        box = self.query_one("#filter", Input)
        box.value, box.display = self._needle, True
        box.focus()

    def action_no_filter(self) -> None:
        """Show all."""
        self.query_one("#filter", Input).value = ""
        self._leave("")

    def on_input_changed(self, event: Input.Changed) -> None:
        """Show what fits what is typed so far."""
        self._needle = event.value.strip()
        self._show()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Keep it."""
        self._leave(event.value.strip())

    def _leave(self, needle: str) -> None:
        self._needle = needle
        self.query_one("#filter", Input).display = False
        self.query_one("#tenants").focus()
        self._show()


def _row(line: Line, sparks: Sequence[int], table: DataTable[Text]) -> list[Text]:
    """Cells as wide as their columns allow. No markup: names are other users' words."""
    cells = []
    widths = [column.width for column in table.ordered_columns]
    for number, (text, width) in enumerate(zip(line.cells, widths, strict=True)):
        style = Style(color=_BLUE) if number in sparks else Style()
        if line.alarm and number == 0:
            style = Style(color=_ORANGE, bold=True)
        cell = Text(text, style=style, no_wrap=True, overflow="ellipsis", end="")
        cell.truncate(width - 1, overflow="ellipsis")  # and a space to the next
        cells.append(cell)
    return cells


def _lines(lines: Sequence[str], color: str | None = None) -> Text:
    return Text("\n".join(lines), style=Style(color=color), no_wrap=True, overflow="ellipsis")

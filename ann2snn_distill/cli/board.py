"""A batch on stderr: a live table on a terminal, elsewhere a line whenever a run starts or ends."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

if TYPE_CHECKING:
    from ann2snn_distill.batch import Board, RunView

_STYLES = {
    "running": "cyan",
    "finished": "green",
    "missed": "yellow",
    "failed": "red",
    "interrupted": "yellow",
    "waiting": "dim",
}
_ORDER = ("running", "failed", "missed", "interrupted", "finished", "waiting")
_ENDED = ("finished", "missed", "failed")
_BESIDE_ROWS = 6
"""Lines of the terminal that are no rows: title, heading, rule, what is not shown, and the prompt."""


@contextmanager
def watching() -> Iterator[Callable[["Board"], None]]:
    """Give what shows a board; what libraries print meanwhile goes to stderr, too."""
    console = Console(stderr=True, markup=False, highlight=False, emoji=False)
    with redirect_stdout(sys.stderr):
        if not console.is_terminal:
            yield _Lines(console)
            return
        with Live(console=console, auto_refresh=False, transient=True) as live:
            yield lambda board: live.update(live_table(board, rows=console.height - _BESIDE_ROWS), refresh=True)


class _Lines:
    """Says what changed since the last look."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: dict[str, str] = {}

    def __call__(self, board: "Board") -> None:
        if not self._said:
            self._say(counts(board))
            self._said = {view.job.name: view.shown for view in board if view.shown in _ENDED}
        for view in board:
            if view.shown != self._said.get(view.job.name, "waiting"):
                self._said[view.job.name] = view.shown
                self._say(f"{view.job.name}: {view.shown}{_time(view)}{_reason(view)}")

    def _say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)


def live_table(board: "Board", *, rows: int) -> Table:
    """Build the table: running and failed runs first, as many as there are rows for."""
    built = Table(box=box.SIMPLE_HEAD, title=counts(board), title_justify="left", title_style="bold", expand=True)
    for name, ratio in (("run", 3), ("state", None), ("time", None), ("progress", 4)):
        built.add_column(name, ratio=ratio, no_wrap=True, overflow="ellipsis")
    ordered = sorted(board, key=lambda view: _ORDER.index(view.shown))
    shown = ordered[: max(rows, 1)]
    for view in shown:
        built.add_row(view.job.name, view.shown, _clock(view.seconds), view.detail, style=_STYLES[view.shown])
    if len(shown) < len(ordered):
        built.add_row(f"and {len(ordered) - len(shown)} more", style="dim")
    return built


def counts(board: "Board") -> str:
    """Say how many runs there are in each state."""
    states = [view.shown for view in board]
    told = ", ".join(f"{states.count(state)} {state}" for state in _ORDER if state in states)
    return f"{len(board)} runs: {told}"


def _clock(seconds: float) -> str:
    if not seconds:
        return ""
    return time.strftime("%H:%M:%S" if seconds >= 3600 else "%M:%S", time.gmtime(seconds))


def _time(view: "RunView") -> str:
    return f" after {view.seconds:.0f} s" if view.shown in _ENDED and view.seconds else ""


def _reason(view: "RunView") -> str:
    return f" ({view.detail})" if view.shown in _ENDED and view.detail else ""

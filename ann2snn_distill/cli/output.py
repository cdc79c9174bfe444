"""The result on stdout: text with tables for people, JSON for scripts."""

import io
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table

_ROUNDING = 1e-9
_WIDE = 200  # columns where no terminal says: a pipe or a file must not lose cells


def emit(text: str) -> None:
    """Write `text` to stdout; a reader that has closed the pipe, such as head, is no failure."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def emit_json(value: object) -> None:
    """Write `value` to stdout as JSON; what JSON lacks, such as paths, becomes text."""
    emit(json.dumps(value, indent=2, default=str) + "\n")


def show(*renderables: RenderableType) -> None:
    """Write text and tables to stdout, as wide as the terminal."""
    terminal = sys.stdout.isatty()
    buffer = io.StringIO()
    console = Console(
        file=buffer,
        force_terminal=terminal,
        width=None if terminal else _WIDE,
        markup=False,
        highlight=False,
        emoji=False,
    )
    for renderable in renderables:
        console.print(renderable)
    emit(buffer.getvalue())


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Build a table; numbers stand to the right, None is a dash."""
    rows = [tuple(row) for row in rows]
    built = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_header=any(columns),
        min_width=len(title),
    )
    for index, column in enumerate(columns):
        numeric = all(not isinstance(row[index], str) for row in rows)
        built.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        built.add_row(*(cell(value) for value in row))
    return built


def cell(value: object) -> str:
    """Write one value for people: two decimals, thousands apart, yes and no, a dash for None."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            small = _ROUNDING < abs(value) < 0.01  # what a difference of equal numbers leaves is none
            return f"{value:.2e}" if small else f"{value:.2f}"
        case _:
            return str(value)


def outline(title: str, values: Mapping[str, Any]) -> list[RenderableType]:
    """Lay out nested values: one table of the plain ones, one for every mapping and list of mappings."""
    plain = {key: value for key, value in values.items() if not _is_nested(value)}
    tables: list[RenderableType] = []
    if plain:
        tables.append(table(title, ("", ""), ((key, _flat(value)) for key, value in plain.items())))
    for key, value in values.items():
        if _is_nested(value) and isinstance(value, Mapping):
            tables += outline(key, value)
        elif _is_nested(value):
            columns = tuple(value[0])
            rows = ([_short(entry.get(column)) for column in columns] for entry in value)
            tables.append(table(key, columns, rows))
    return tables


def _is_nested(value: object) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(entry, Mapping) for entry in value)
    return isinstance(value, Mapping) and bool(value)


def _short(value: object) -> object:
    return _flat(value) if isinstance(value, list | tuple | Mapping) else value


def _flat(value: object) -> str:
    if isinstance(value, list | tuple):
        entries = list(map(str, value))
        return ("\n" if any(" " in entry for entry in entries) else ", ").join(entries) or "-"  # sentences have lines
    return cell(value) if value != {} else "-"

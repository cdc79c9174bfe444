"""The frame of every page: one file that needs no other, light or dark as the reader has it."""

from collections.abc import Iterable
from html import escape

_STYLE = """
:root { --ink: #1c2733; --soft: #5c6b7a; --line: #dfe5ea; --paper: #ffffff; --band: #f5f7f9;
  --student: #1769aa; --teacher: #8a6d00; --good: #1b7f3b; --warn: #a35c00; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf0; --soft: #9aa8b5; --line: #35414d; --paper: #141a20;
  --band: #1c242c; --student: #6db3ec; --teacher: #d8b84a; --good: #63c785; --warn: #e5a04f; --bad: #f08a83; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem; max-width: 76rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { margin: .3rem 0; color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
table.wide { width: 100%; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; } th button { all: unset; cursor: pointer; }
th button:focus-visible { outline: 2px solid var(--student); }
tbody tr:hover { background: var(--band); } a { color: var(--student); }
.finished { color: var(--good); } .missed, .waiting, .running, .interrupted { color: var(--warn); }
.failed { color: var(--bad); } .reason { color: var(--soft); font-size: .9em; }
td:first-child { overflow-wrap: anywhere; min-width: 14rem; } table:not(.wide) td:first-child { min-width: 0; }
svg text { fill: var(--ink); font: 13px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
svg text.soft { fill: var(--soft); } svg line { stroke: var(--line); }
svg .curve { fill: none; stroke-width: 2; }
svg .s0 { stroke: var(--student); } svg .s1 { stroke: var(--bad); } svg .s2 { stroke: var(--good); }
svg .s3 { stroke: var(--teacher); } svg .s4 { stroke: #8e5bd0; } svg .s5 { stroke: #00838f; }
svg .s6 { stroke: #c2509b; } svg .s7 { stroke: var(--soft); }
svg .student { fill: var(--student); fill-opacity: .75; } svg .teacher { fill: none; stroke: var(--teacher);
  stroke-width: 2; }
"""


def page(title: str, body: Iterable[str], *, script: str = "") -> str:
    """Return a whole page.

    Args:
        title: plain text.
        body: HTML, part by part.
        script: JavaScript that runs at the end.
    """
    scripted = f"<script>{script}</script>\n" if script else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(body)
        + f"\n{scripted}</body></html>\n"
    )

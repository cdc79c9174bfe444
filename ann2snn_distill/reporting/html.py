"""The summary of a batch as one self-contained page: a plot, the means over seeds, every run."""

from collections.abc import Iterable, Sequence
from html import escape
from urllib.parse import quote

from ann2snn_distill.reporting.batch_summary import BatchSummary, GroupSummary, RunSummary
from ann2snn_distill.reporting.html_page import page
from ann2snn_distill.reporting.html_plot import dot_plot

_SORT = """
for (const button of document.querySelectorAll("th button")) button.onclick = () => {
  const head = button.parentElement, body = head.closest("table").tBodies[0];
  const at = [...head.parentElement.children].indexOf(head), down = head.ariaSort === "ascending";
  for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
  head.ariaSort = down ? "descending" : "ascending";
  const value = row => { const text = row.cells[at].dataset.value ?? row.cells[at].textContent;
    return text === "" || isNaN(text) ? text : Number(text); };
  const order = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  [...body.rows].sort((a, b) => (down ? -1 : 1) * order(value(a), value(b))).forEach(row => body.append(row));
};
"""


def to_html(summary: BatchSummary) -> str:
    """Return the page; it needs no other file, and links to the runs' folders beside it."""
    parts = [f"<p>{_counts(summary)}</p>"]
    plotted = [run for run in summary.runs if run.top1 is not None]
    if plotted:
        parts += ["<h2>Accuracy on the test split</h2>", dot_plot(plotted)]
    if summary.groups:
        parts += ["<h2>Means over seeds</h2>", _groups(summary.groups)]
    parts += ["<h2>Runs</h2>", _runs(summary.runs)]
    return page(summary.title, parts, script=_SORT)


def _counts(summary: BatchSummary) -> str:
    words = {
        "finished": "finished",
        "missed": "finished with a gate missed",
        "failed": "failed",
        "running": "running",
        "interrupted": "interrupted",
        "waiting": "not started",
    }
    counts = [(summary.count(state), state, text) for state, text in words.items()]  # type: ignore[arg-type]
    told = [f'<span class="{state}">{count} {text}</span>' for count, state, text in counts if count]
    return f"{len(summary.runs)} runs: {', '.join(told)}"


def _groups(groups: Sequence[GroupSummary]) -> str:
    keys = list(dict.fromkeys(key for group in groups for key in group.varied))
    head = [*keys, "seeds", "student, %", "deviation", "drop, points"]
    rows = [
        [
            *(_cell(group.varied.get(key)) for key in keys),
            _cell(group.finished),
            *(_cell(value) for value in (group.top1_mean, group.top1_deviation, group.drop_mean)),
        ]
        for group in groups
    ]
    return _table(head, rows)


def _runs(runs: Sequence[RunSummary]) -> str:
    head = ["run", "state", "T", "teacher, %", "student, %", "drop, points", "spiking, %", "mJ", "s", "images/s"]
    return _table(head, map(_run, runs), wide=True)


def _run(run: RunSummary) -> list[str]:
    name = escape(run.name)
    if run.state in ("finished", "missed"):
        name = f'<a href="{quote(run.folder)}/report.html">{name}</a>'
    reason = f'<div class="reason">{escape(run.reason)}</div>' if run.reason else ""
    numbers = (
        run.timesteps,
        run.teacher_top1,
        run.top1,
        run.drop,
        None if run.coverage is None else 100 * run.coverage,
        run.energy_mj,
        None if run.training.seconds is None else round(run.training.seconds),
        None if run.training.images_per_second is None else round(run.training.images_per_second),
    )
    return [f"<td>{name}{reason}</td>", f'<td class="{run.state}">{run.state}</td>', *map(_cell, numbers)]


def _cell(value: object) -> str:
    match value:
        case None:
            return '<td class="number" data-value="">-</td>'
        case bool():
            return f"<td>{'yes' if value else 'no'}</td>"
        case int():
            return f'<td class="number" data-value="{value}">{value:,}</td>'
        case float():
            shown = f"{value:.2f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2e}"
            return f'<td class="number" data-value="{value}">{shown}</td>'
        case _:
            return f"<td>{escape(str(value))}</td>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, wide: bool = False) -> str:
    rows = [tuple(row) for row in rows]
    numeric = [all('class="number"' in row[index] for row in rows) for index in range(len(head))]
    openings = ['<th class="number">' if right else "<th>" for right in numeric]
    cells = (f"{th}<button>{escape(text)}</button></th>" for th, text in zip(openings, head, strict=True))
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    opening = '<table class="wide">' if wide else "<table>"
    return (
        f'<div class="scroll">{opening}<thead><tr>{"".join(cells)}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )

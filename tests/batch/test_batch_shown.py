"""What people see of a batch: the page, the live table, the lines of a log."""

from html.parser import HTMLParser

import pytest
from batch_files import GRID
from rich.console import Console

from ann2snn_distill.batch import planned
from ann2snn_distill.cli.board import counts, live_table
from ann2snn_distill.reporting.html import to_html


class Page(HTMLParser):
    """Collects tags, links and text, and sees that every tag is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [str(value) for name, value in attrs if name in ("href", "src")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_shows_every_run_and_needs_no_other_file(runs, batch, tmp_path):
    summary = batch(runs(GRID.replace("seed = [0, 1]", "seed = [13, 1]")))
    page = Page((tmp_path / "out" / "summary.html").read_text())
    assert all(run.name in page.text for run in summary.runs)
    assert "4 runs: 2 finished, 2 failed" in page.text
    assert "the loss is no longer finite" in page.text
    assert page.links == [f"{run.folder}/report.html" for run in summary.runs if run.state == "finished"]
    assert page.tags.count("circle") == 2 * 2 + 2, "a student and a teacher a finished run, and the legend"


def test_what_a_user_wrote_is_text_on_the_page_and_nothing_else(runs, batch):
    summary = batch(runs(GRID))
    evil = "<script>alert(1)</script>"
    changed = summary.runs[0].model_copy(update={"name": evil, "reason": evil, "varied": {"model": evil}})
    page = Page(to_html(summary.model_copy(update={"title": evil, "runs": (changed, *summary.runs[1:])})))
    assert page.tags.count("script") == 1, "the one that sorts tables"
    assert page.text.count(evil) >= 3


@pytest.mark.parametrize(("rows", "shown"), [(10, 4), (2, 2)])
def test_the_live_table_fits_the_terminal_and_shows_what_runs_first(runs, tmp_path, rows, shown):
    board = planned(runs(GRID), tmp_path / "out", retry_failed=False)
    board[-1].state, board[-1].detail, board[-1].seconds = "running", "epoch 1 of 2", 3725.0
    console = Console(width=90, record=True, file=(tmp_path / "null").open("w"))
    console.print(live_table(board, rows=rows))
    text = console.export_text()
    console.file.close()
    assert counts(board) == "4 runs: 1 running, 3 waiting"
    assert "01:02:05" in text and "epoch 1 of 2" in text  # noqa: PT018 - one row
    assert text.count("test_resnet-digits") == shown
    assert ("and 2 more" in text) == (rows == 2)


def test_a_missed_gate_is_no_finished_run_on_the_live_table(runs, tmp_path):
    board = planned(runs(GRID), tmp_path / "out", retry_failed=False)
    board[0].state, board[0].gate = "finished", "the drop of 2.00 points is above --max-drop 1"
    board[1].state = "finished"
    assert counts(board) == "4 runs: 1 missed, 1 finished, 2 waiting"

"""`snn-distill batch` as it is typed: its exit codes, and what it prints; the conversions are faked."""

import json
from types import SimpleNamespace

import pytest
from batch_files import FAKE, GRID

from ann2snn_distill import batch as whole
from ann2snn_distill.cli.app import run as run_command

FAILING = GRID.replace("seed = [0, 1]", "seed = [13, 1]")


@pytest.fixture
def typed(written, tmp_path, monkeypatch, capsys):
    """Give the command; return its exit code, stdout and stderr."""

    def run(text, *flags):
        path = written(text)
        code = run_command(["batch", str(path), "--output", str(tmp_path / "out"), *flags])
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    run_batch = whole.run_batch

    def faked(*arguments, **named):
        return run_batch(*arguments, **named | {"command": FAKE})

    monkeypatch.setattr(whole, "run_batch", faked)
    return run


def test_a_batch_whose_runs_all_finish_leaves_with_0_and_prints_its_summary(typed, tmp_path):
    done = typed(GRID, "--json", "--jobs", "2")
    assert done.code == 0, done.err
    assert json.loads(done.out) == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [run["state"] for run in json.loads(done.out)["runs"]] == ["finished"] * 4


def test_a_failed_run_makes_it_1_until_it_is_retried(typed, tmp_path):
    """A missed gate beside it changes nothing; the first command without the flag leaves the failed run alone."""
    first = typed(FAILING.replace("limit", "min_accuracy = 92\nlimit"))
    assert first.code == 1
    assert "error: 2 of 4 runs failed; the summary has the reasons, --retry-failed tries again" in first.err
    assert "the loss is no longer finite" in first.out
    (tmp_path / "out" / "healed").touch()
    assert typed(FAILING).code == 1
    planned = json.loads(typed(FAILING, "--dry-run", "--json").out)
    assert [run["state"] for run in planned] == ["failed", "finished"] * 2
    again = typed(FAILING, "--retry-failed", "--json")
    assert again.code == 0, again.err
    assert [run["state"] for run in json.loads(again.out)["runs"]] == ["finished"] * 4
    assert typed(FAILING).code == 0


def test_a_run_that_alone_was_interrupted_makes_it_130_and_is_gone_on_with(typed, tmp_path):
    text = GRID.replace("seed = [0, 1]", "seed = [14, 1]")
    first = typed(text.replace("limit", "min_accuracy = 91.5\nlimit"))
    assert first.code == 130
    assert "error: 2 of 4 runs were interrupted; give the same command again to go on" in first.err
    states = [run["state"] for run in json.loads((tmp_path / "out" / "summary.json").read_text())["runs"]]
    assert states.count("interrupted") == 2
    (tmp_path / "out" / "healed").touch()
    again = typed(text, "--json")
    assert again.code == 0, again.err
    assert [run["state"] for run in json.loads(again.out)["runs"]] == ["finished"] * 4


def test_a_missed_gate_alone_makes_it_3(typed, tmp_path):
    done = typed(GRID.replace("limit", "min_accuracy = 91.5\nlimit"))
    assert done.code == 3
    assert "2 of 4 runs missed a gate; all files are written" in done.err
    told = [line for line in done.err.splitlines() if ": missed after " in line]
    assert len(told) == 2
    assert all("% is below --min-accuracy 91.5)" in line for line in told)
    assert (tmp_path / "out" / "summary.html").exists()


def test_wrong_usage_is_2_and_writes_nothing(typed, tmp_path):
    done = typed(GRID.replace("limit", "no_such_key = 1\nlimit"))
    assert (done.code, done.out) == (2, "")
    assert "no_such_key" in done.err
    assert not (tmp_path / "out").exists()

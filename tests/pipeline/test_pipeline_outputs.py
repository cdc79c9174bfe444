"""Output folders, gates and disks: what cannot be written is refused or told, and nothing is half-written."""

import errno
import json
import os
import resource
import subprocess
import sys

import pytest
import torch
from refusals import DIGITS, refused
from safetensors.torch import load_file


def test_an_output_that_cannot_be_used_is_refused(command, tiny, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("a file")
    refused(command("convert", *tiny, "--output", tmp_path / "full"), 2, "--resume auto", "--overwrite", "--output")
    refused(command("convert", *tiny, "--output", tmp_path / "file"), 2, "is a file")
    refused(command("convert", *tiny, "--output", tmp_path / "file" / "deeper"), 1, "cannot make", "--output")
    refused(command("convert", *tiny, "--output", "/proc/snn-distill"), 1, "cannot make /proc/snn-distill")
    teach = ("teach", "test_resnet", *DIGITS, "--output", tmp_path / "file")
    refused(command(*teach), 1, "cannot make")
    assert (tmp_path / "full" / "letter.txt").read_text() == "dear"


def test_overwrite_replaces_a_run_and_keeps_foreign_files(command, tiny, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "letter.txt").write_text("dear")
    (folder / "report.json").write_text("old")
    done = command("convert", *tiny, "--output", folder, "--overwrite")
    assert done.code == 0, done.err
    assert json.loads((folder / "report.json").read_text())["model"] == "test_resnet"
    assert (folder / "letter.txt").read_text() == "dear"


def test_a_wrong_setting_does_not_cost_the_run_that_overwrite_would_replace(command, tiny, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "student.safetensors").write_text("precious")
    refused(command("convert", *tiny, "--output", folder, "--overwrite", "--branches", "nowhere"), 2)
    assert (folder / "student.safetensors").read_text() == "precious"


def test_a_missed_gate_exits_3_with_all_files_written(command, tiny, tmp_path):
    folder = tmp_path / "run"
    done = command("convert", *tiny, "--output", folder, "--max-drop", -100, "--min-accuracy", 100, "--json")
    assert done.code == 3
    assert json.loads(done.out) == json.loads((folder / "report.json").read_text())
    assert "is above --max-drop -100; all files are written" in done.err
    assert {"student.safetensors", "report.json", "report.md", "report.html"} <= {
        path.name for path in folder.iterdir()
    }
    assert not (folder / "resume").exists()


@pytest.mark.parametrize(
    "name",
    [
        "student.safetensors",
        "report.json",
        "report.md",
        "report.html",
        "metrics.jsonl",
        "state-000002-00000000.safetensors",
    ],
)
def test_a_full_disk_leaves_no_half_written_file(command, tiny, tmp_path, monkeypatch, name):
    fsync = os.fsync

    def full(handle):
        if f".{name}." in os.readlink(f"/proc/self/fd/{handle if isinstance(handle, int) else handle.fileno()}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    folder = tmp_path / "run"
    monkeypatch.setattr(os, "fsync", full)
    done = command("convert", *tiny, "--output", folder)
    refused(done, 1, name, "No space left on device", "free some space")
    assert not list(folder.rglob("*.tmp"))
    assert not list(folder.rglob(name))
    monkeypatch.undo()
    again = command("convert", *tiny, "--output", folder, "--resume", "auto")
    assert again.code == 0, again.err


def test_a_file_that_may_not_grow_ends_the_run_with_1(tiny, cache, tmp_path):
    """A real write error of the kernel, by a limit on the size of files."""
    program = "from ann2snn_distill.cli.process import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "convert", *map(str, tiny), "--output", str(tmp_path / "run")],
        env={**os.environ, "SNN_DISTILL_CACHE": str(cache)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert "Traceback" not in done.stderr
    assert "error: cannot write" in done.stderr
    assert {path.name for path in (tmp_path / "run").rglob("*") if path.is_file()} <= {"config.toml", "metrics.jsonl"}


@pytest.mark.slow
def test_a_disk_that_is_really_full_ends_the_run_with_1(command, tiny, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], capture_output=True).returncode:  # noqa: PLW1510
        pytest.skip("no right to mount")
    try:
        done = command("convert", *tiny, "--output", small / "run")
        refused(done, 1, "No space left on device")
        assert not list(small.rglob("*.tmp"))
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_damaged_cached_teacher_is_trained_again_and_said_so(command, tiny, cache, tmp_path):
    before = set((cache / "teachers").glob("*.safetensors"))
    assert command("convert", *tiny, "--seed", 11, "--output", tmp_path / "first").code == 0
    (path,) = set((cache / "teachers").glob("*.safetensors")) - before
    path.write_bytes(path.read_bytes()[:1000])
    done = command("convert", *tiny, "--seed", 11, "--output", tmp_path / "second")
    assert done.code == 0
    assert f"warning: the cached teacher {path} is damaged (" in done.err
    first, second = (load_file(tmp_path / name / "student.safetensors") for name in ("first", "second"))
    assert all(torch.equal(first[name], second[name]) for name in first)

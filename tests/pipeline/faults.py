"""Real runs in processes of their own, and real faults: signals, kills between file operations, full disks.

Processes are forked from a server that has imported everything and computed nothing, so that one costs its run alone.
"""

import errno
import json
import multiprocessing
import os
import signal
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from ann2snn_distill.checkpoint import load_checkpoint, read_header
from ann2snn_distill.reporting.report import Report
from ann2snn_distill.training.resume import ResumeFolder

HANG_SECONDS = 300.0
"""A guard against a hang, far from anything that is measured."""

TIMING = {"seconds", "images_per_second"}

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["ann2snn_distill.pipeline", "ann2snn_distill.cli.app", "faults"])

Fault = Callable[[str, Path], None]
"""Called before each operation that changes a file: its kind and the path."""


@dataclass(frozen=True)
class Place:
    """Where a run writes: everything lies under `root`."""

    root: Path
    name: str = "run"

    @property
    def output(self) -> Path:
        return self.root / self.name

    @property
    def cache(self) -> Path:
        return self.root / f"{self.name}-cache"

    @property
    def err(self) -> Path:
        return self.root / f"{self.name}.err"


def killed_at(count: int) -> Fault:
    """Die by SIGKILL before the operation of that number (from 1)."""
    seen = []

    def fault(kind: str, path: Path) -> None:
        seen.append(kind)
        if len(seen) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    return fault


def full_from(count: int) -> Fault:
    """The disk is full from the write of that number (from 1) on; what exists may still be renamed and removed."""
    seen = []

    def fault(kind: str, path: Path) -> None:
        if kind == "open":
            seen.append(kind)
            if len(seen) >= count:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    return fault


def counted(file: Path) -> Fault:
    """Write down every operation in `file`."""
    handle = os.open(file, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def fault(kind: str, path: Path) -> None:
        os.write(handle, f"{kind} {path.name}\n".encode())

    return fault


def start(place, arguments, *, fault=None, before=None):
    """Start `snn-distill convert` with --resume auto in a process; messages go to `place.err`.

    `fault` makes a `Fault` from a number; `before` is called first in the process.
    """
    place.err.unlink(missing_ok=True)  # or what the run before said would pass for this one's progress
    process = _SERVER.Process(target=_run, args=(place, tuple(map(str, arguments)), fault, before))
    process.start()
    return process


def ended(process) -> int:
    """Wait for the end of a process, and return its exit code; a signal's is negative."""
    process.join(HANG_SECONDS)
    assert process.exitcode is not None, "the run hangs"
    return process.exitcode


def finish(place: Place, arguments: tuple[object, ...]) -> None:
    """Run to the end."""
    assert ended(start(place, arguments)) == 0, place.err.read_text()


def wait_for(condition: Callable[[], object], process) -> None:
    """Poll until something is there, or the process has ended."""
    deadline = time.monotonic() + HANG_SECONDS
    while not condition() and process.exitcode is None:
        assert time.monotonic() < deadline, "the run hangs"
        time.sleep(0.002)


def check_files(place: Place) -> None:
    """See that every file under its own name is whole."""
    for path in [*place.output.rglob("*"), *place.cache.rglob("*")]:
        if path.name.startswith(".") or path.suffix == ".lock" or path.is_dir():
            continue
        if path.name == "student.safetensors":
            load_checkpoint(path)
        elif path.suffix == ".safetensors":
            load_file(path)
        elif path.name == "report.json":
            Report.model_validate_json(path.read_text())
        elif path.name == "metrics.jsonl":
            assert all(json.loads(line)["epoch"] for line in path.read_text().splitlines())
        elif path.name == "config.toml":
            assert tomllib.loads(path.read_text())["model"]
        else:
            assert path.name in ("report.md", "report.html"), path
            assert path.read_text().strip()
    for folder in [place.output / "resume", *place.cache.glob("teachers/*.resume")]:
        assert not _damaged_states(folder)


def _damaged_states(folder: Path) -> list[str]:
    complaints = ResumeFolder(folder, identity={})
    complaints._check_identity = lambda *_: None  # type: ignore[method-assign]
    return complaints.load(lambda restart: None)[1]


def check_same(whole: Place, parts: Place) -> None:
    """See that two complete runs have the same weights, reports and metrics, and left nothing else behind."""
    assert_same_run(whole.output, parts.output)
    for first, second in ((whole.output, parts.output), (whole.cache, parts.cache)):
        extra, lost = names_in(second) - names_in(first), names_in(first) - names_in(second)
        assert not extra | lost, f"too many: {extra}, missing: {lost}"


def names_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def assert_same_run(first: Path, second: Path) -> None:
    ours, theirs = (load_file(folder / "student.safetensors") for folder in (first, second))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    headers = [read_header(folder / "student.safetensors") for folder in (first, second)]
    assert headers[0].decays == headers[1].decays
    reports = [json.loads((folder / "report.json").read_text()) for folder in (first, second)]
    for report in reports:
        report["training"] = None
    assert reports[0] == reports[1]
    histories = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (first, second)]
    lines = [[{k: v for k, v in json.loads(x).items() if k not in TIMING} for x in history] for history in histories]
    assert lines[0] == lines[1]


def _run(place, arguments, fault, before) -> None:
    """In the new process: the command line, with its messages in a file."""
    from ann2snn_distill.cli.process import main

    if before is not None:
        before()
    torch.set_num_threads(1)
    for number, name in ((1, os.devnull), (2, str(place.err))):
        handle = os.open(name, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
        os.dup2(handle, number)
    os.environ["SNN_DISTILL_CACHE"] = str(place.cache)
    if fault is not None:
        _watch_files(place.root, fault[0](fault[1]))
    main(["convert", *arguments, "--output", str(place.output), "--resume", "auto"])


def _watch_files(root: Path, fault: Fault) -> None:
    """Call `fault` before each operation that changes a file under `root`."""
    changing = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event not in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod"):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & changing):
            return
        path = Path(os.fsdecode(arguments[0])) if isinstance(arguments[0], str | bytes | os.PathLike) else None
        if path is not None and path.is_relative_to(root) and path.suffix != ".err":
            fault(event, path)

    sys.addaudithook(hook)


def limit_memory(pid: int) -> None:
    """Give a running process no byte more than it has."""
    import resource

    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    resource.prlimit(pid, resource.RLIMIT_AS, (pages * resource.getpagesize(),) * 2)

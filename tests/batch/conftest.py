from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from batch_files import FAKE

from ann2snn_distill.batch import Board, NamedRun, run_batch
from ann2snn_distill.batch.runner import Slot
from ann2snn_distill.cli.runs_file import read_runs
from ann2snn_distill.reporting.batch_summary import BatchSummary


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    """Write a RUNS.toml."""

    def write(text: str) -> Path:
        path = tmp_path / "runs.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def runs(written: Callable[[str], Path]) -> Callable[[str], list[NamedRun]]:
    """Read the runs of a RUNS.toml."""
    return lambda text: read_runs(written(text))


@pytest.fixture
def batch(tmp_path: Path) -> Callable[..., BatchSummary]:
    """Run a batch whose conversions are faked, in `tmp_path / "out"`."""

    def run(
        named: Sequence[NamedRun],
        *,
        slots: int = 2,
        retry_failed: bool = False,
        watch: Callable[[Board], None] = lambda board: None,
        command: Sequence[str] = FAKE,
    ) -> BatchSummary:
        return run_batch(
            "test",
            named,
            tmp_path / "out",
            retry_failed=retry_failed,
            command=command,
            slots=[Slot({})] * slots,
            watch=watch,
        )

    return run

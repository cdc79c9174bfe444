"""Many conversions: each in its own process and folder, done once, and gone on with after any interruption."""

from ann2snn_distill.batch.batch import planned, run_batch
from ann2snn_distill.batch.jobs import NamedRun
from ann2snn_distill.batch.runner import Board, RunView

__all__ = ["Board", "NamedRun", "RunView", "planned", "run_batch"]

"""`snn-distill bench`: time and memory of a training step."""

from ann2snn_distill.cli import results
from ann2snn_distill.cli.options import Json, with_flags
from ann2snn_distill.cli.output import emit, show
from ann2snn_distill.cli.render import observing
from ann2snn_distill.config import BenchSettings


@with_flags(BenchSettings)
def bench(settings: BenchSettings, *, json: Json = False) -> None:
    """Measure training steps: hybrid, rate, bptt and the plain ANN."""
    from ann2snn_distill import pipeline

    with observing() as observe:
        found = pipeline.bench(settings, observe)
    if json:
        emit(found.model_dump_json(indent=2) + "\n")
    else:
        show(*results.benchmark(found))

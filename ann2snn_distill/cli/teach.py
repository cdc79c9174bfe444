"""`snn-distill teach`: the ANN teacher alone."""

from ann2snn_distill.cli.options import Json, with_flags
from ann2snn_distill.cli.output import emit_json, outline, show
from ann2snn_distill.cli.render import observing
from ann2snn_distill.config import TeachSettings


@with_flags(TeachSettings, required=("dataset",), config=True)
def teach(settings: TeachSettings, *, json: Json = False) -> None:
    """Train or fine-tune the ANN teacher on a data set."""
    from ann2snn_distill import pipeline

    with observing() as observe:
        taught = pipeline.teach(settings, observe)
    emit_json(taught) if json else show(*outline("teacher", taught))

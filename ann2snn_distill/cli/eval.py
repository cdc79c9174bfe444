"""`snn-distill eval`: measure an SNN again, from its file alone."""

from ann2snn_distill.cli import results
from ann2snn_distill.cli.options import Json, with_flags
from ann2snn_distill.cli.output import emit, show
from ann2snn_distill.cli.render import observing
from ann2snn_distill.cli.resolve import Positional
from ann2snn_distill.config import EvalSettings
from ann2snn_distill.reporting.report import dumps


@with_flags(EvalSettings, positional=Positional("checkpoint", "CKPT"))
def evaluate(settings: EvalSettings, *, json: Json = False) -> None:
    """Measure a spiking network, rebuilt from its file."""
    from ann2snn_distill import pipeline

    with observing() as observe:
        found = pipeline.evaluate(
            settings.checkpoint,
            dataset=settings.dataset,
            data_dir=settings.data_dir,
            timesteps=settings.timesteps,
            device=settings.device,
            batch_size=settings.batch_size,
            workers=settings.workers,
            skip_bad_images=settings.skip_bad_images,
            observe=observe,
        )
    if json:
        emit(dumps(found.report))
    else:
        show(*results.evaluation(found.report, found.reported))

"""`teach`: the teacher alone."""

from typing import Any

from safetensors.torch import save_file

from ann2snn_distill.config import TeachSettings
from ann2snn_distill.data.datasets import load_dataset
from ann2snn_distill.errors import BadInputError, UsageError
from ann2snn_distill.evaluation.accuracy import top1
from ann2snn_distill.events import Observer
from ann2snn_distill.files import write_atomically
from ann2snn_distill.pipeline.machine import choose_device
from ann2snn_distill.pipeline.measuring import evaluation_batches, numerics
from ann2snn_distill.pipeline.teachers import ready_teacher
from ann2snn_distill.recipes import recipe_for, resolved_fit

TEACHER_FILE = "teacher.safetensors"


def teach(settings: TeachSettings, observe: Observer) -> dict[str, Any]:
    """Train or fine-tune a teacher, or take it from the cache, and measure it on the test split."""
    device = choose_device(settings.device)
    target = None if settings.output is None else settings.output / TEACHER_FILE
    if target is not None and target.exists() and not settings.overwrite:
        raise UsageError(f"{target} exists; give --overwrite, or another --output")
    data = load_dataset(
        str(settings.dataset),
        data_dir=settings.data_dir,
        img_size=settings.img_size,
        val_split=settings.val_split,
        limit=settings.limit,
        seed=settings.seed,
        download=settings.download,
    )
    recipe = recipe_for(img_size=data.img_size, images=len(data.train))
    defaults = resolved_fit(settings, recipe, img_size=data.img_size, cuda=device.type == "cuda")
    resolved = settings.model_copy(
        update={
            **defaults,
            "img_size": data.img_size,
            "teacher_epochs": settings.teacher_epochs or settings.epochs,
        }
    )
    taught = ready_teacher(resolved, resolved, data, device, observe)
    network = taught.network
    module = network.module.to(device).eval()
    batches = evaluation_batches(
        data.test,
        numerics(device, img_size=data.img_size),
        img_size=data.img_size,
        mean=network.mean,  # type: ignore[arg-type]
        std=network.std,  # type: ignore[arg-type]
        device=device,
        workers=settings.workers,
    )
    accuracy = top1(module, batches)
    if target is not None:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInputError(f"cannot make {target.parent}: {error.strerror}") from error
        write_atomically(target, lambda path: save_file(tensors, path))
    return {
        "model": network.name,
        "dataset": data.name,
        "top1": accuracy,
        "source": network.source,
        "path": str(target or taught.path or settings.checkpoint or ""),
        "epochs": taught.epochs,
        "seconds": taught.seconds,
    }

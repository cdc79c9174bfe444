"""`snn-distill env`: versions and devices, to paste into an issue."""

import os
import platform

from ann2snn_distill.cli.failures import exit_codes
from ann2snn_distill.cli.options import Json
from ann2snn_distill.cli.output import emit_json, outline, show
from ann2snn_distill.reporting.versions import versions


@exit_codes()
def env(*, json: Json = False) -> None:
    """Show versions and devices, to paste into an issue."""
    import torch

    found = {
        **versions(),
        "platform": platform.platform(),
        "cuda": torch.version.cuda,
        "devices": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    emit_json(found) if json else show(*outline("environment", found))

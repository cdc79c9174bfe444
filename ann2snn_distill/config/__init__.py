"""Every setting of a command: frozen models with units, from which flags, TOML keys and config.toml come.

Settings stop at the pipeline: the floors below it take plain keyword arguments.
"""

from ann2snn_distill.config.commands import BatchSettings, BenchSettings, EvalSettings, InspectSettings
from ann2snn_distill.config.kinds import AutoAugmentName
from ann2snn_distill.config.runs import CONFIG_FILE, ConvertSettings, FitSettings, NetworkSettings, TeachSettings
from ann2snn_distill.config.written import as_written

__all__ = [
    "CONFIG_FILE",
    "AutoAugmentName",
    "BatchSettings",
    "BenchSettings",
    "ConvertSettings",
    "EvalSettings",
    "FitSettings",
    "InspectSettings",
    "NetworkSettings",
    "TeachSettings",
    "as_written",
]

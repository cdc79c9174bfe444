"""Teachers: timm networks with timm's weights, a file's, or random ones."""

from ann2snn_distill.teacher.hub import local_form, native_side
from ann2snn_distill.teacher.load import LoadedNetwork, load_network
from ann2snn_distill.teacher.matching import WeightMatch
from ann2snn_distill.teacher.names import resolve_model_name
from ann2snn_distill.teacher.networks import build_blueprint, build_network
from ann2snn_distill.teacher.rebuild import check_rebuild, rebuilt_network
from ann2snn_distill.teacher.stem import Stem, StemChange, chosen_stem, small_stem

__all__ = [
    "LoadedNetwork",
    "Stem",
    "StemChange",
    "WeightMatch",
    "build_blueprint",
    "build_network",
    "check_rebuild",
    "chosen_stem",
    "load_network",
    "local_form",
    "native_side",
    "rebuilt_network",
    "resolve_model_name",
    "small_stem",
]

"""The versions that a result depends on."""

import platform
from importlib import metadata

from ann2snn_distill import __version__

_LIBRARIES = ("torch", "torchvision", "timm", "numpy", "safetensors", "pydantic")


def versions() -> dict[str, str]:
    """Versions of snn-distill, Python and the libraries, without importing them."""
    found = {"snn-distill": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found

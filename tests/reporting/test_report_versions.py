import platform
from importlib import metadata

from ann2snn_distill import __version__
from ann2snn_distill.reporting import versions as room


def test_versions_names_the_package_python_and_the_libraries(monkeypatch):
    monkeypatch.setattr(room, "_LIBRARIES", ("pydantic", "no-such-library"))
    assert room.versions() == {
        "snn-distill": __version__,
        "python": platform.python_version(),
        "pydantic": metadata.version("pydantic"),
        "no-such-library": "not installed",
    }

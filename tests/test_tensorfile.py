"""Reading a whole tensor file: a signal waits for its end, since the library would make an error of its own of it."""

import signal

import pytest
import torch
from safetensors.torch import save_file

from ann2snn_distill import tensorfile
from ann2snn_distill.tensorfile import read_whole

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StruckReader:
    """Stands in for the library's reader: a signal falls into it, and what Python code raises in it is a ValueError."""

    def __init__(self, path, framework):
        self.number = SIGNALS[0] if "SIGINT" in path.name else SIGNALS[1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def metadata(self):
        return None

    def keys(self):
        return ["weight"]

    def get_tensor(self, name):
        try:
            signal.raise_signal(self.number)
        except KeyboardInterrupt:
            raise ValueError("could not read the tensor") from None
        return torch.zeros(1)


@pytest.fixture
def interrupting():
    """Both signals raise KeyboardInterrupt, as they do in a command."""
    before = [signal.signal(number, signal.default_int_handler) for number in SIGNALS]
    yield
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.usefixtures("interrupting")
def test_a_signal_while_a_file_is_read_is_an_interruption_and_no_error_of_the_library(tmp_path, monkeypatch, number):
    monkeypatch.setattr(tensorfile, "safe_open", StruckReader)
    with pytest.raises(KeyboardInterrupt):
        read_whole(tmp_path / number.name)
    assert signal.getsignal(number) is signal.default_int_handler


def test_metadata_and_tensors_are_read(tmp_path):
    tensors = {"weight": torch.arange(6.0).view(2, 3), "count": torch.tensor(3)}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"of": "test"})
    metadata, found = read_whole(tmp_path / "a.safetensors")
    assert metadata == {"of": "test"}
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())

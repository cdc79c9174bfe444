"""The device of a run."""

import os

import torch

from ann2snn_distill.errors import BadInputError, UsageError


def choose_device(name: str) -> torch.device:
    """Return the device named auto, cpu, cuda or cuda:N.

    Raises:
        UsageError: it is no device's name.
        BadInputError: no such device is here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"'{name}' is no device; give auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"'{name}' is not supported; give auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadInputError("no CUDA device is available to this PyTorch; give --device cpu, or see snn-distill env")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadInputError(f"{name} does not exist; this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def device_name(device: torch.device) -> str:
    """Return the device's name as a person knows it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def memory_mib(device: torch.device) -> float:
    """Return the device's whole memory, MiB; the machine's for the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / 2**20
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20

"""Where runs go: how many at once, on which devices, with how many threads."""

import os
from collections.abc import Mapping

from ann2snn_distill.batch.runner import Slot
from ann2snn_distill.errors import UsageError

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_THREADS = "OMP_NUM_THREADS"


def slots(
    jobs: int | None, devices: str | None, *, environment: Mapping[str, str], cpus: int | None = None
) -> list[Slot]:
    """Return as many slots as runs are to go on at once: spread over the devices, one a device by default.

    Args:
        jobs: runs at once.
        devices: numbers of CUDA devices separated by commas, counted as this process sees them.
        environment: of this process; each slot's is made from it.
        cpus: shared out between the slots, unless the environment says how many threads to use.

    Raises:
        UsageError: a device is no number, comes twice, or is not visible to this process.
    """
    chosen = [] if devices is None else _chosen(devices, environment.get(_VISIBLE))
    count = jobs or max(len(chosen), 1)
    if len(chosen) > count:
        raise UsageError(f"--jobs {count} leaves {len(chosen) - count} of the devices {devices} idle; name fewer")
    threads = max((cpus or os.cpu_count() or 1) // count, 1)
    shared = {_THREADS: str(threads)} if count > 1 else {}
    return [
        Slot({**shared, **environment, **({_VISIBLE: chosen[index % len(chosen)]} if chosen else {})})
        for index in range(count)
    ]


def _chosen(devices: str, visible: str | None) -> list[str]:
    numbers = [text.strip() for text in devices.split(",")]
    for number in numbers:
        if not (number.isascii() and number.isdigit()):
            raise UsageError(f"--devices takes numbers separated by commas, as 0,1, not '{devices}'")
        if numbers.count(number) > 1:
            raise UsageError(f"--devices names {number} twice; --jobs sets how many runs share a device")
    if visible is None:
        return numbers
    seen = [name.strip() for name in visible.split(",") if name.strip()]
    for number in numbers:
        if int(number) >= len(seen):
            raise UsageError(f"--devices {number} does not exist: {_VISIBLE} shows this process {len(seen)} devices")
    return [seen[int(number)] for number in numbers]

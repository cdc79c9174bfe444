"""Random streams without state: every stream is named, and its name alone seeds it.

A resumed run needs no saved generator: the stream of (seed, epoch, purpose, step) is the same in any process.
"""

import hashlib

import torch


def stream_seed(seed: int, *name: int | str) -> int:
    """A 63-bit seed for the stream `name` of the run seeded with `seed`; the same on every machine."""
    text = "/".join(str(part) for part in (seed, *name))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def stream(seed: int, *name: int | str) -> torch.Generator:
    """A generator on the CPU, at the start of the stream `name` of the run seeded with `seed`."""
    return torch.Generator().manual_seed(stream_seed(seed, *name))

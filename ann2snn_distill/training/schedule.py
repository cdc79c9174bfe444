"""Learning rate over the steps of a run."""

import math


def cosine_with_warmup(step: int, *, steps: int, warmup: int, peak: float) -> float:
    """Return the learning rate of `step` (from 0): linear to `peak` over `warmup` steps, then a cosine to 0."""
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(steps - warmup, 1)
    return peak * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

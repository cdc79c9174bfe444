"""Loss parts as pure functions. Shapes: B batch, K classes; targets are probabilities (B, K)."""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits_BK: Tensor, target_BK: Tensor) -> Tensor:
    """Return the mean cross entropy against soft targets, a scalar in float32."""
    return F.cross_entropy(logits_BK.float(), target_BK)


def divergence(logits_BK: Tensor, teacher_BK: Tensor, temperature: float) -> Tensor:
    """Return tau^2 * KL(softmax(teacher / tau) || softmax(logits / tau)), the mean over the batch."""
    student = F.log_softmax(logits_BK.float() / temperature, dim=1)
    teacher = F.log_softmax(teacher_BK.float() / temperature, dim=1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def guided(cross: Tensor, guidance: Tensor, alpha: float) -> Tensor:
    """Return (1 - alpha) * CE + alpha * KL, a branch's loss (arXiv 2503.16572; no temperature by default)."""
    return (1 - alpha) * cross + alpha * guidance


def branch_weights(count: int, kind: Literal["uniform", "decay"]) -> tuple[float, ...]:
    """Return beta_k of `count` branches, early to late, summing to 1.

    uniform: 1/n_b. decay: proportional to 2^(k - (n_b - 1)). The normalisation is reconstructed from the
    paper's summary.
    """
    raw = [1.0] * count if kind == "uniform" else [2.0 ** (k - (count - 1)) for k in range(count)]
    return tuple(weight / sum(raw) for weight in raw)


def cosine(feature: Tensor, reference: Tensor) -> Tensor:
    """Return the mean over the batch of the cosine between flattened features, a scalar in float32."""
    return F.cosine_similarity(feature.float().flatten(1), reference.float().flatten(1), dim=1).mean()

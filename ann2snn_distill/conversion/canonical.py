"""Make visible, before tracing, what a network's modules hide inside their forward.

Paths and parameter names stay, so weights load into a canonical network as into the original. A canonical network
is for tracing: the tracer emits a norm's `drop` and `act` children behind it (see tracer.py).
"""

import copy

from timm.layers import AvgPool2dSame, BatchNormAct2d
from timm.layers.adaptive_avgmax_pool import (
    AdaptiveAvgMaxPool2d,
    AdaptiveCatAvgMaxPool2d,
    FastAdaptiveAvgMaxPool,
    FastAdaptiveAvgPool,
    FastAdaptiveCatAvgMaxPool,
    FastAdaptiveMaxPool,
)
from timm.layers.pool2d_same import MaxPool2dSame
from torch import Tensor, nn

from ann2snn_distill.errors import UnsupportedModelError

_BatchNorm = nn.modules.batchnorm._BatchNorm
_MIXED_POOLS = (AdaptiveAvgMaxPool2d, AdaptiveCatAvgMaxPool2d, FastAdaptiveAvgMaxPool, FastAdaptiveCatAvgMaxPool)


def canonical(model: nn.Module) -> nn.Module:
    """Return a copy of `model` in eval mode whose trace computes the same and hides nothing.

    Raises:
        UnsupportedModelError: a batch norm without plain running statistics.
    """
    result = _copy(model).eval()
    for path, module in list(result.named_modules()):
        if isinstance(module, _BatchNorm):
            _check_norm(path, module)
        replacement = _replacement(module)
        if replacement is not None:
            parent, _, name = path.rpartition(".")
            setattr(result.get_submodule(parent), name, replacement)
    return result


def _copy(model: nn.Module) -> nn.Module:
    """Return a copy without what a forward with gradients has kept, such as attention's biases: that has no copy."""
    torchs = vars(nn.Module())
    caches = [
        value
        for module in model.modules()
        for name, value in vars(module).items()
        if name not in torchs and type(value) is dict
    ]
    memo: dict[int, object] = {
        id(cache): {}
        for cache in caches
        if any(isinstance(kept, Tensor) and not kept.is_leaf for kept in cache.values())
    }
    return copy.deepcopy(model, memo)


def _replacement(module: nn.Module) -> nn.Module | None:
    if type(module) is BatchNormAct2d:
        return _open_norm(module)
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return nn.Identity()
    return None


def _open_norm(closed: BatchNormAct2d) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(closed.num_features, eps=closed.eps, momentum=closed.momentum, affine=False)
    norm.weight, norm.bias, norm.affine = closed.weight, closed.bias, closed.affine
    norm.running_mean, norm.running_var = closed.running_mean, closed.running_var
    norm.num_batches_tracked = closed.num_batches_tracked
    norm.add_module("drop", nn.Identity())
    norm.add_module("act", closed.act)
    return norm.eval()


def _check_norm(path: str, norm: _BatchNorm) -> None:
    if norm.momentum is None or norm.running_mean is None:
        raise UnsupportedModelError(
            f"{path}: a batch norm without running statistics, or with a cumulative average, has no rule; "
            "give it a momentum and running statistics, or choose another model"
        )


def average_pooled(model: nn.Module) -> nn.Module:
    """Return a copy of `model` whose max pools are average pools of the same window.

    Zeros around the image count in timm's pools with TensorFlow's padding, and nowhere else. Max pools that are no
    modules stay.

    Raises:
        UnsupportedModelError: a max pool that is dilated, gives indices, or is mixed with an average.
    """
    result = _copy(model)
    for path, module in list(result.named_modules()):
        pool = _average(path, module)
        if pool is not None:
            parent, _, name = path.rpartition(".")
            setattr(result.get_submodule(parent), name, pool)
    return result


def can_be_averaged(model: nn.Module) -> bool:
    """Return whether `average_pooled` takes a model."""
    try:
        for path, module in model.named_modules():
            _average(path, module)
    except UnsupportedModelError:
        return False
    return True


def _average(path: str, module: nn.Module) -> nn.Module | None:
    if isinstance(module, _MIXED_POOLS):
        raise UnsupportedModelError(f"{path}: {type(module).__name__} has no average; give --maxpool keep")
    if isinstance(module, nn.MaxPool2d | nn.AdaptiveMaxPool2d) and module.return_indices:
        raise UnsupportedModelError(f"{path}: a max pool that gives indices has no average; give --maxpool keep")
    if isinstance(module, nn.AdaptiveMaxPool2d):
        return nn.AdaptiveAvgPool2d(module.output_size)
    if isinstance(module, FastAdaptiveMaxPool):
        average: nn.Module = FastAdaptiveAvgPool(flatten=module.flatten)
        average.dim = module.dim
        return average
    if not isinstance(module, nn.MaxPool2d):
        return None
    if module.dilation not in (1, (1, 1)):
        raise UnsupportedModelError(f"{path}: a dilated max pool has no average; give --maxpool keep")
    same = isinstance(module, MaxPool2dSame)
    pool: type[nn.AvgPool2d] = AvgPool2dSame if same else nn.AvgPool2d
    return pool(module.kernel_size, module.stride, module.padding, module.ceil_mode, count_include_pad=same)

"""Make visible, before tracing, what a network's modules hide inside their forward.

Paths and parameter names stay, so weights load into a canonical network as into the original. A canonical network
is for tracing: the tracer emits a norm's `drop` and `act` children behind it (see tracer.py).
"""

import copy

from timm.layers import BatchNormAct2d
from torch import nn

from ann2snn_distill.errors import UnsupportedModelError

_BatchNorm = nn.modules.batchnorm._BatchNorm


def canonical(model: nn.Module) -> nn.Module:
    """Return a copy of `model` in eval mode whose trace computes the same and hides nothing.

    Raises:
        UnsupportedModelError: a batch norm without plain running statistics.
    """
    result = copy.deepcopy(model).eval()
    for path, module in list(result.named_modules()):
        if isinstance(module, _BatchNorm):
            _check_norm(path, module)
        replacement = _replacement(module)
        if replacement is not None:
            parent, _, name = path.rpartition(".")
            setattr(result.get_submodule(parent), name, replacement)
    return result


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

    Raises:
        UnsupportedModelError: a dilated or adaptive max pool.
    """
    result = copy.deepcopy(model)
    for path, module in list(result.named_modules()):
        if isinstance(module, nn.MaxPool2d):
            if module.dilation not in (1, (1, 1)):
                raise UnsupportedModelError(f"{path}: a dilated max pool has no average; give --maxpool keep")
            pool = nn.AvgPool2d(
                module.kernel_size, module.stride, module.padding, module.ceil_mode, count_include_pad=False
            )
            parent, _, name = path.rpartition(".")
            setattr(result.get_submodule(parent), name, pool)
    return result

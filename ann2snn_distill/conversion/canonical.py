"""Make visible, before tracing, what a network's modules hide inside their forward.

Paths and parameter names stay, so weights load into a canonical network as into the original. A canonical network
is for tracing: the tracer emits a norm's `drop` and `act` children behind it (see trace.py).
"""

import copy

import torch
from timm.layers import BatchNormAct2d
from timm.models.vgg import ConvMlp
from torch import Tensor, nn
from torch.nn import functional as F

from ann2snn_distill.errors import UnsupportedModelError

_BatchNorm = nn.modules.batchnorm._BatchNorm


class OpenConvMlp(nn.Module):
    """timm's vgg head without its branch on the input's side: pooling to the same side changes nothing."""

    def __init__(self, closed: ConvMlp):
        super().__init__()
        self.kernel_side: int = closed.input_kernel_size
        self.fc1, self.act1, self.drop = closed.fc1, closed.act1, closed.drop
        self.fc2, self.act2 = closed.fc2, closed.act2

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of `x` (N, C, H, W), resized to the kernel's side where it is smaller."""
        height, width = (torch.sym_max(self.kernel_side, side) for side in (x.shape[-2], x.shape[-1]))
        x = self.act1(self.fc1(F.adaptive_avg_pool2d(x, (height, width))))  # type: ignore[arg-type]
        features: Tensor = self.act2(self.fc2(self.drop(x)))
        return features


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
    if type(module) is ConvMlp:
        return OpenConvMlp(module)
    if isinstance(module, nn.Dropout | nn.Dropout2d | nn.AlphaDropout):
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

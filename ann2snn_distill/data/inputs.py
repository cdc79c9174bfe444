"""From uint8 images and class indices to what a network trains on and is tested with.

Shapes: B images, C = 3 channels, H x W pixels, K classes.
"""

import torch
from torch import Generator, Tensor

from ann2snn_distill.data.augment import Augmentation, mix, soft_targets
from ann2snn_distill.data.splits import Triple


class Inputs:
    """Normalises uint8 images on the device with `mean` and `std` of pixels in 0..1, per channel."""

    def __init__(self, mean: Triple, std: Triple, *, device: torch.device, channels_last: bool) -> None:
        # x = (pixel / 255 - mean) / std, as one scale and one shift
        mean_C, std_C = (torch.tensor(values, dtype=torch.float64) for values in (mean, std))
        self._scale_C11 = (1 / (255 * std_C)).float()[:, None, None].to(device)
        self._shift_C11 = (-mean_C / std_C).float()[:, None, None].to(device)
        self._layout = torch.channels_last if channels_last else torch.contiguous_format

    def test(self, images_BCHW: Tensor) -> Tensor:
        """float32 (B, C, H, W), normalised."""
        x_BCHW = images_BCHW.to(dtype=torch.float32, memory_format=self._layout)
        return x_BCHW.mul_(self._scale_C11).add_(self._shift_C11)

    def train(
        self,
        images_BCHW: Tensor,
        labels_B: Tensor,
        *,
        classes: int,
        augmentation: Augmentation,
        generator: Generator,
    ) -> tuple[Tensor, Tensor]:
        """float32 images (B, C, H, W) and target probabilities (B, K), smoothed and mixed."""
        return mix(
            self.test(images_BCHW),
            soft_targets(labels_B, classes=classes, smoothing=augmentation.smoothing),
            mixup=augmentation.mixup,
            cutmix=augmentation.cutmix,
            probability=augmentation.mixup_prob,
            generator=generator,
        )

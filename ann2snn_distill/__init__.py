"""Turn timm ANN checkpoints into spiking neural networks by hybrid rate-based distillation."""

__version__ = "0.1.0"

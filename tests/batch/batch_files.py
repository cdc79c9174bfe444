"""A batch of four runs, and what stands in for their conversions."""

import sys
from pathlib import Path

FAKE = (sys.executable, str(Path(__file__).with_name("fake_convert.py")))

GRID = """
[defaults]
model = "test_resnet"
dataset = "digits"
epochs = 2
warmup_epochs = 0.0
device = "cpu"
limit = 64

[[grid]]
timesteps = [1, 2]
seed = [0, 1]
"""

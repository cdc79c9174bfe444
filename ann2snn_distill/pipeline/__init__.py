"""Whole runs: teacher -> partition -> student -> fit -> evaluate -> save -> report."""

from ann2snn_distill.pipeline.bench import bench
from ann2snn_distill.pipeline.convert import convert
from ann2snn_distill.pipeline.evaluate import evaluate
from ann2snn_distill.pipeline.inspecting import inspect
from ann2snn_distill.pipeline.planning import plan
from ann2snn_distill.pipeline.surveying import inspect_families
from ann2snn_distill.pipeline.teach import teach

__all__ = ["bench", "convert", "evaluate", "inspect", "inspect_families", "plan", "teach"]

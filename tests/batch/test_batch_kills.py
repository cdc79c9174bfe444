"""A batch that is killed and given again ends with the summary of one that was left alone."""

import json
import random
import time
from pathlib import Path

import pytest
from batch_files import FAKE, GRID
from killing import BatchProcess

CLI = ("-c", "from ann2snn_distill.cli.process import main; main()")

REAL = """
[defaults]
model = "test_resnet"
dataset = "digits"
device = "cpu"
limit = 256
batch_size = 32
epochs = 3
teacher_epochs = 3
checkpoint_interval = 1

[[grid]]
timesteps = [1, 2, 3]
neuron = ["lif", "if"]
seed = [0, 1]
"""

SCRIPT = """
import sys
from pathlib import Path
from ann2snn_distill.batch import run_batch
from ann2snn_distill.batch.runner import Slot
from ann2snn_distill.cli.runs_file import read_runs

runs = read_runs(Path("runs.toml"))
command = {command!r}
slots = [Slot({{}})] * 2
run_batch("runs", runs, Path("runs/runs"), retry_failed=False, command=command, slots=slots, watch=lambda board: None)
"""


def summary(folder: Path) -> list[dict]:
    """The runs of a summary, without what is never the same twice: how long they took."""
    content = json.loads((folder / "runs" / "runs" / "summary.json").read_text())
    for run in content["runs"]:
        del run["training"]
    return [*content["runs"], *content["groups"]]


def folders(tmp_path: Path, text: str) -> tuple[Path, Path]:
    for name in ("calm", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "runs.toml").write_text(text)
    return tmp_path / "calm", tmp_path / "killed"


def start(folder: Path) -> BatchProcess:
    """The real command line, with a cache of its own: teachers are trained in this batch alone."""
    return BatchProcess((*CLI, "batch", "runs.toml", "--jobs", "2"), folder=folder, environment=environment(folder))


def environment(folder: Path) -> dict[str, str]:
    return {"SNN_DISTILL_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def test_a_batch_that_is_killed_goes_on_where_it_was(tmp_path):
    calm, killed = folders(tmp_path, GRID.replace("warmup_epochs = 0.0", "warmup_epochs = 0.5"))
    script = ("-c", SCRIPT.format(command=FAKE))
    code, said = BatchProcess(script, folder=calm).result()
    assert code == 0, said
    process = BatchProcess(script, folder=killed)
    process.wait_for_a_run()
    time.sleep(1.2)
    assert process.kill_all()
    assert BatchProcess(script, folder=killed).result() == (0, "")
    assert summary(killed) == summary(calm)
    starts = [len(path.read_text().splitlines()) for path in killed.glob("runs/runs/*/calls")]
    assert len(starts) == 4
    assert sum(starts) <= 6, "only the two that ran are started again"


@pytest.mark.slow
def test_a_batch_of_twelve_that_is_killed_three_times_ends_as_one_left_alone(tmp_path):
    calm, killed = folders(tmp_path, REAL)
    code, said = start(calm).result()
    assert code == 0, said
    moments = random.Random(0)
    kills = 0
    for kind in (BatchProcess.kill_all, BatchProcess.kill, BatchProcess.kill_all):
        process = start(killed)
        process.wait_for_a_run()
        time.sleep(moments.uniform(3, 25))
        kills += kind(process)
    assert kills == 3
    code, said = start(killed).result()
    assert code == 0, said
    assert summary(killed) == summary(calm)
    assert len(summary(killed)) == 12 + 6
    teachers = sorted(path.name for path in (killed / "cache" / "teachers").glob("*.safetensors"))
    assert teachers == sorted(path.name for path in (calm / "cache" / "teachers").glob("*.safetensors"))
    assert len(teachers) == 2, "one a seed, whatever the timesteps and the neuron"


@pytest.mark.slow
def test_sigterm_ends_a_batch_with_its_runs_and_their_state(tmp_path):
    endless = REAL.replace("\nepochs = 3", "\nepochs = 1000").replace("timesteps = [1, 2, 3]", "timesteps = [1]")
    folder, _ = folders(tmp_path, endless)
    process = start(folder)
    process.wait_for_a_run()
    while len(list(folder.glob("runs/runs/*/metrics.jsonl"))) < 2:
        assert process.children(), "a run ended before its first epoch"
        time.sleep(0.2)
    children = process.children()
    process.interrupt()
    code, said = process.result()
    assert code == 130, said
    assert "give the same command again to go on" in said
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    content = json.loads((folder / "runs" / "runs" / "summary.json").read_text())
    assert [run["state"] for run in content["runs"]].count("interrupted") == 2
    assert len(list(folder.glob("runs/runs/*/resume/*.safetensors"))) >= 2

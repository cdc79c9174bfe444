"""Stands in for `snn-distill convert` in tests of batches: the same arguments and files, in a fraction of a second.

Seed 13 fails, and seed 14 is interrupted, until a file `healed` stands beside the runs' folders.
An epoch takes `warmup_epochs` seconds.
"""

import json
import signal
import sys
import time
import tomllib
from pathlib import Path


def interrupted(number: int, frame: object) -> None:
    print("error: interrupted; state saved", file=sys.stderr)
    sys.exit(130)


def main(arguments: list[str]) -> None:
    signal.signal(signal.SIGINT, interrupted)
    settings = tomllib.loads(Path(arguments[arguments.index("--config") + 1]).read_text())
    folder = Path(arguments[arguments.index("--output") + 1])
    assert arguments[0] == "convert"
    assert arguments[arguments.index("--resume") + 1] == "auto"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "calls").open("a") as calls:
        calls.write(f"{time.time()}\n")
    if settings["seed"] == 14 and not (folder.parent / "healed").exists():
        interrupted(signal.SIGINT, None)
    if settings["seed"] == 13 and not (folder.parent / "healed").exists():
        print("a note\nerror: the loss is no longer finite in epoch 1; lower the rate", file=sys.stderr)
        sys.exit(1)
    metrics = folder / "metrics.jsonl"
    done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
    for epoch in range(done, settings["epochs"]):
        time.sleep(settings["warmup_epochs"])
        with metrics.open("a") as lines:
            lines.write(json.dumps({"epoch": epoch + 1}) + "\n")
    (folder / "report.json").write_text(json.dumps(report(settings)))


def report(settings: dict) -> dict:
    top1 = 90.0 + settings["timesteps"] + settings["seed"] / 10
    return {
        "model": settings["model"],
        "student": {"model": settings["model"], "top1": top1, "top1_at": {str(settings["timesteps"]): top1}},
        "dataset": "digits",
        "timesteps": settings["timesteps"],
        "method": settings["method"],
        "neuron": settings["neuron"],
        "seed": settings["seed"],
        "versions": {},
        "device": "cpu",
        "teacher": {"top1": 99.0, "source": "random"},
        "drop": 99.0 - top1,
        "training": {"epochs": settings["epochs"], "seconds": 1.0, "images_per_second": 10.0},
    }


if __name__ == "__main__":
    main(sys.argv[1:])

"""Feeds spoilt files to the readers, in a process that watches itself: `python fuzzing.py SEED COUNT FOLDER`.

Prints what happened as JSON. An input is survived if it is read, or refused by one of the project's own errors, in
time and memory, without a connection, a process, or a file written outside the folder.
"""

import json
import pickle
import random
import resource
import signal
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from fuzzing_states import a_resume_state, the_facts_of_a_resume_state
from safetensors.torch import save
from spoiling import changed, spoilt

from ann2snn_distill.checkpoint import load_checkpoint, read_header
from ann2snn_distill.cli.options import MODEL
from ann2snn_distill.cli.resolve import resolve
from ann2snn_distill.cli.runs_file import read_runs
from ann2snn_distill.config import ConvertSettings
from ann2snn_distill.errors import SnnDistillError
from ann2snn_distill.pipeline.students import student_from_header
from ann2snn_distill.teacher.files import read_tensors

STUDENT = Path(__file__).parent.parent / "fixtures" / "student-v1.safetensors"
SECONDS = 20
MEMORY = 512 * 2**20
"""Bytes beyond what the process has when it begins: the file has 50 kB, the libraries take the rest."""

FORBIDDEN = ("socket.connect", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork")
TOML = b"""model = "test_resnet"
dataset = "digits"
timesteps = 4
epochs = 3
alpha = 0.5
model_kwargs = {stem_width = 4, channels = [8, 8]}
neuron = "lif"
"""
RUNS = b"""[defaults]
model = "test_resnet"
dataset = "digits"
[[run]]
name = "a"
threshold = 2.0
[[grid]]
timesteps = [1, 2]
seed = [0, 1]
"""


def with_header(content: bytes, text: str) -> bytes:
    """The student's file with another header, and no checksum that would notice it."""
    (length,) = struct.unpack("<Q", content[:8])
    index = json.loads(content[8 : 8 + length])
    index["__metadata__"] = {"snn_distill": text}
    out = json.dumps(index).encode()
    return struct.pack("<Q", len(out)) + out + content[8 + length :]


def header_of(content: bytes) -> dict:
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["snn_distill"])


class Evil:
    """A pickle that would leave a trace if it ran."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple:
        return Path.touch, (self.trace,)


def bytes_of_a_student(source: random.Random, path: Path) -> Callable[[], object]:
    path.write_bytes(spoilt(source, STUDENT.read_bytes()))
    return lambda: load_checkpoint(path)


def a_header(source: random.Random, path: Path) -> Callable[[], object]:
    content = STUDENT.read_bytes()
    header = changed(source, header_of(content))
    if source.random() < 0.2:
        header = changed(source, header)
    path.write_bytes(with_header(content, json.dumps(header)))
    return lambda: read_header(path)


def a_network(source: random.Random, path: Path) -> Callable[[], object]:
    content = STUDENT.read_bytes()
    header = header_of(content)
    key = source.choice(
        ("model_kwargs", "model_kwargs", "student", "classes", "img_size", "stem", "thresholds", "maxpool")
    )
    header[key] = changed(source, header[key])
    path.write_bytes(with_header(content, json.dumps(header)))
    return lambda: student_from_header(*load_checkpoint(path))


def a_config(source: random.Random, path: Path) -> Callable[[], object]:
    path.write_bytes(spoilt(source, TOML))
    return lambda: resolve(ConvertSettings, {}, config=path, positional=MODEL, required=("dataset",))


def a_runs_file(source: random.Random, path: Path) -> Callable[[], object]:
    path.write_bytes(spoilt(source, RUNS))
    return lambda: read_runs(path)


def a_pickle(source: random.Random, path: Path) -> Callable[[], object]:
    path = path.with_suffix(".pth")
    content = {"state_dict": {"w": torch.ones(8, 8), "b": torch.zeros(8)}, "epoch": 3}
    if source.random() < 0.1:
        content["more"] = Evil(path.with_name("TRACE"))
    if source.random() < 0.1:
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=source.random() < 0.7)
    if source.random() < 0.9:
        path.write_bytes(spoilt(source, path.read_bytes()))
    return lambda: read_tensors(path)


def a_teachers_safetensors(source: random.Random, path: Path) -> Callable[[], object]:
    path.write_bytes(spoilt(source, save({"w": torch.ones(8, 8), "b": torch.zeros(8)})))
    return lambda: read_tensors(path)


KINDS = {
    "bytes of a student": (bytes_of_a_student, 8),
    "header": (a_header, 5),
    "network of a header": (a_network, 1),
    "config": (a_config, 3),
    "runs file": (a_runs_file, 2),
    "resume state": (a_resume_state, 2),
    "facts of a resume state": (the_facts_of_a_resume_state, 2),
    "pickle": (a_pickle, 3),
    "safetensors of a teacher": (a_teachers_safetensors, 2),
}


def kinds(source: random.Random, count: int) -> Iterator[str]:
    names, weights = list(KINDS), [weight for _, weight in KINDS.values()]
    yield from source.choices(names, weights, k=count)


def guarded(folder: Path, broken: list[str]) -> None:
    """From now on, bound memory and note every forbidden act."""
    kilobytes = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize"))
    limit = int(kilobytes.split()[1]) * 1024 + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    def watch(event: str, arguments: tuple) -> None:
        if event in FORBIDDEN:
            broken.append(f"{event} {arguments!r:.200}")
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if writes and not str(arguments[0]).startswith(str(folder)):
            broken.append(f"write {arguments[0]}")

    sys.addaudithook(watch)


def out_of_time(number: int, frame: object) -> None:
    raise TimeoutError("an input took too long")


def main(seed: int, count: int, folder: Path) -> None:
    source = random.Random(seed)
    broken: list[str] = []
    outcomes: dict[str, Counter] = {name: Counter() for name in KINDS}
    student_from_header(*load_checkpoint(STUDENT))  # what is imported at first use is no input's doing
    guarded(folder, broken)
    signal.signal(signal.SIGALRM, out_of_time)
    slowest = 0.0
    for number, name in enumerate(kinds(source, count)):
        act = KINDS[name][0](source, folder / f"{number % 50}.safetensors")
        started = time.monotonic()
        signal.alarm(SECONDS)
        try:
            act()
            outcomes[name]["read"] += 1
        except SnnDistillError as error:
            outcomes[name]["refused"] += 1
            if "\n" in str(error) or len(str(error)) > 1000:
                broken.append(f"{name} {number}: a text that is too long: {str(error)[:300]!r}")
        except BaseException as error:
            broken.append(f"{name} {number}: {type(error).__name__}: {str(error)[:300]}")
        finally:
            signal.alarm(0)
        slowest = max(slowest, time.monotonic() - started)
    if (folder / "TRACE").exists():
        broken.append("a pickle ran")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"outcomes": outcomes, "broken": broken, "slowest_s": round(slowest, 2), "peak_mib": peak}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))

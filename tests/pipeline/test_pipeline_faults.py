"""Faults by doing them: no file is half-written, the exit code is right, and the run ends as if undisturbed."""

import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import faults
import pytest
from faults import Place, check_files, check_same, ended, finish, start, wait_for
from PIL import Image

import ann2snn_distill

OPTIONS = (
    "--img-size 16 --batch-size 12 --epochs 3 --teacher-epochs 3 --timesteps 2 --device cpu --workers 0 "
    "--checkpoint-interval 0.002m --model-kwargs drop_rate=0.5 --model-ema 0.9 --mixup 0.4"
)
PHASES = ("teacher", "distillation", "evaluation", "saving")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


@pytest.fixture(scope="module")
def arguments(shades):
    return ("test_resnet", "--dataset", shades, *OPTIONS.split())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def whole(arguments, root):
    """An undisturbed run, and when each of its phases began, in seconds."""
    place = Place(root, "whole")
    process = start(place, arguments)
    began = {}
    for phase in PHASES:
        wait_for(lambda phase=phase: has_begun(place, phase, process), process)
        began[phase] = time.monotonic()
    assert ended(process) == 0, place.err.read_text()
    end = time.monotonic()
    check_files(place)
    moments = [*began.values(), end]
    return place, dict(zip(PHASES, (b - a for a, b in pairwise(moments)), strict=True))


def has_begun(place, phase, process):
    if not catches(process.pid, signal.SIGTERM):  # what lies in the folder may be of the process before
        return False
    text = place.err.read_text() if place.err.exists() else ""
    match phase:
        case "teacher":
            return True
        case "distillation":
            return "teacher" in text and re.search(r"teacher test_resnet: ([\d.]+ s|\d+ epochs)|taken from", text)
        case "evaluation":
            return re.search(r"hybrid test_resnet: ([\d.]+ s|\d+ epochs)", text)
        case _:
            return (place.output / "student.safetensors").exists()


def catches(pid, number):
    """Does the process answer this signal? Read from the kernel."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16) >> (number - 1) & 1


def test_what_the_run_before_said_is_not_taken_for_progress(root):
    place = Place(root, "stale")
    place.err.write_text("hybrid test_resnet: 3 epochs, 1.0 s\n")
    process = start(place, ("no_such_model", "--dataset", "digits"))
    assert not has_begun(place, "evaluation", process)
    assert ended(process) == 2


def struck(place, arguments, durations, draw, *, phase, number):
    """Run until a random moment of a phase, send the signal; return whether it struck, and the phase that it met."""
    process = start(place, arguments)
    wait_for(lambda: has_begun(place, phase, process), process)
    time.sleep(draw.uniform(0, durations[phase]))
    met = [name for name in PHASES if has_begun(place, name, process)]
    if process.exitcode is None:
        os.kill(process.pid, number)
    code = ended(process)
    text = place.err.read_text() if place.err.exists() else ""  # none where it died before it opened its stderr
    check_files(place)
    if (place.output / "report.json").exists():
        return None  # the last file was there before the signal
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 130), text
    assert "Traceback" not in text
    if number != signal.SIGKILL and text:  # none where the command had not begun
        assert re.match(r"error: interrupted|Aborted", text.splitlines()[-1]), text
    return met[-1] if met else "teacher"


def disturbed(root, arguments, whole, draw, *, name, targets):
    """Strike one run again and again, finish it, and compare; return how often each phase and signal was met."""
    place, tally = Place(root, name), Counter()
    for phase, number in targets:
        met = struck(place, arguments, whole[1], draw, phase=phase, number=number)
        if met is None:
            break
        tally[met, signal.Signals(number).name] += 1
    finish(place, arguments)
    check_files(place)
    check_same(whole[0], place)
    shutil.rmtree(place.output)
    shutil.rmtree(place.cache)
    return tally


def test_a_run_that_is_struck_in_every_phase_ends_as_if_undisturbed(root, arguments, whole):
    targets = zip(PHASES, (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGKILL), strict=True)
    disturbed(root, arguments, whole, random.Random(0), name="struck", targets=targets)


@pytest.mark.slow
def test_sixty_signals_at_random_moments(root, arguments, whole, capsys):
    draw, tally, chain = random.Random(20), Counter(), 0
    while tally.total() < 60 or min(tally[p, s.name] for p in PHASES for s in SIGNALS) < 1:
        phases = sorted(draw.choices(PHASES, k=5), key=PHASES.index)
        targets = [(phase, draw.choice(SIGNALS)) for phase in phases]
        tally += disturbed(root, arguments, whole, draw, name=f"struck-{chain}", targets=targets)
        chain += 1
    with capsys.disabled():
        print(f"\n{tally.total()} signals over {chain} runs")
        for (phase, number), count in sorted(tally.items()):
            print(f"{phase:13} {number:8} {count}")


def hit_between_files(root, arguments, whole, counts, *, name, fault, codes):
    """Go on with one run through faults at its file operations of these numbers; return the exit codes."""
    place, found = Place(root, name), []
    for count in counts:
        code = ended(start(place, arguments, fault=(fault, count)))
        found.append(code)
        text = place.err.read_text()
        check_files(place)
        assert code in codes, text
        assert "Traceback" not in text
        if code == 1:
            assert re.fullmatch(r"error: .*No space left on device; free some space.*", text.splitlines()[-1]), text
            assert not list(place.root.rglob(f"{name}*/**/*.tmp"))
        if code == 0:
            break
    finish(place, arguments)
    check_same(whole[0], place)
    shutil.rmtree(place.output)
    shutil.rmtree(place.cache)
    return Counter(found)


def test_a_run_that_is_killed_between_file_operations_ends_as_if_undisturbed(root, arguments, whole):
    counts = random.Random(1).sample(range(5, 60), 2)
    found = hit_between_files(
        root, arguments, whole, counts, name="between", fault=faults.killed_at, codes=(-signal.SIGKILL,)
    )
    assert found.total() == 2


def test_a_run_whose_disk_is_full_again_and_again_ends_as_if_undisturbed(root, arguments, whole):
    counts = random.Random(2).sample(range(3, 40), 2)
    hit_between_files(root, arguments, whole, counts, name="full", fault=faults.full_from, codes=(1,))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "code", "most"),
    [(faults.killed_at, -signal.SIGKILL, 100), (faults.full_from, 1, 60)],
    ids=["kill", "full"],
)
def test_forty_faults_between_file_operations(root, arguments, whole, capsys, fault, code, most):
    draw, found, chain = random.Random(3), Counter(), 0
    while found[code] < 40:
        counts = [draw.randint(1, most) for _ in range(8)]
        name = f"{fault.__name__}-{chain}"
        found += hit_between_files(root, arguments, whole, counts, name=name, fault=fault, codes=(code, 0))
        chain += 1
    with capsys.disabled():
        print(f"\n{fault.__name__}: {found[code]} faults over {chain} runs")


@pytest.mark.slow
def test_a_real_disk_that_gets_full_at_any_time(root, arguments, whole, shades, capsys):
    disk = Place(root / "disk", "run")
    disk.root.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk.root], capture_output=True).returncode:  # noqa: PLW1510
        pytest.skip("no right to mount a small disk")
    refusals = 0
    try:
        for size in [64, *range(200, 6000, 400)]:
            subprocess.run(["mount", "-o", f"remount,size={size}k", disk.root], check=True)
            code = ended(start(disk, arguments))
            text = disk.err.read_text()
            check_files(disk)
            if code == 0:
                break
            assert code == 1, text
            assert "No space left on device" in text or not text  # messages lie on the same disk
            refusals += 1
        subprocess.run(["mount", "-o", "remount,size=64m", disk.root], check=True)
        finish(disk, arguments)
        check_same(whole[0], disk)
    finally:
        subprocess.run(["umount", disk.root], check=True)
    assert refusals > 3
    with capsys.disabled():
        print(f"\n{refusals} times a full disk of {size} KiB or less")


@pytest.fixture
def shared_folder():
    """A folder that any user may enter: pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


def as_nobody():
    if os.getuid() == 0:  # whom no permission stops
        os.setgid(65534)
        os.setuid(65534)


def test_a_folder_that_turns_unwritable_ends_the_run_and_may_turn_back(arguments, whole, shades, shared_folder):
    data = shutil.copytree(shades, shared_folder / "shades")
    place = Place(shared_folder)
    arguments = ("test_resnet", "--dataset", data, *arguments[3:])
    process = start(place, arguments, before=as_nobody)
    wait_for((place.output / "resume").exists, process)
    os.chmod(place.output / "resume", 0o555)
    assert ended(process) == 1
    text = place.err.read_text()
    assert re.search(
        r"^error: cannot write .*resume.*: Permission denied; make its folder writable", text, re.MULTILINE
    )
    assert "Traceback" not in text
    check_files(place)
    os.chmod(place.output / "resume", 0o755)
    assert ended(start(place, arguments, before=as_nobody)) == 0, place.err.read_text()
    faults.assert_same_run(whole[0].output, place.output)


@pytest.mark.slow
def test_memory_that_runs_out_ends_the_run_and_costs_little(arguments, whole, root, capsys):
    """Not one byte more than the process has: where Python meets it, a message; where a library does, an abort."""
    place, found = Place(root, "starved"), Counter()
    for steps in range(1, 7):
        process = start(place, arguments)
        wait_for(lambda steps=steps: catches(process.pid, signal.SIGTERM) and states(place, steps), process)  # noqa: B023
        faults.limit_memory(process.pid)
        code, text = ended(process), place.err.read_text()
        check_files(place)
        if code == 0:
            break
        found[code] += 1
        assert code in (1, -signal.SIGABRT, -signal.SIGSEGV), text
        assert code != 1 or text.splitlines()[-1].startswith("error: ")
        ours = f"{Path(ann2snn_distill.__file__).parent}/"  # what safetensors met, its library prints by itself
        assert code != 1 or "Traceback" not in text or ("panicked at" in text and ours not in text), text
    finish(place, arguments)
    check_same(whole[0], place)
    with capsys.disabled():
        print(f"\nout of memory, by exit code: {dict(found)}")


def states(place, steps):
    """Is there a state of the student, made after so many steps or more (three are an epoch)?"""
    names = [path.name.split(".")[0].split("-") for path in (place.output / "resume").glob("state-*")]
    return any(3 * int(epoch) + int(step) >= steps for _, epoch, step in names)


@pytest.fixture(scope="module")
def streamed(shades, root):
    """Arguments of a run whose images are too large to stay on the device, and what an undisturbed one ends as."""
    data = root / "large" / "shades"
    for path in sorted(shades.rglob("*.png")):
        target = data / path.relative_to(shades)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).resize((80, 80)).save(target)
    options = "--img-size 65 --no-pretrained --batch-size 6 --epochs 2 --teacher-epochs 1 --timesteps 1 --device cpu"
    arguments = ("test_resnet", "--dataset", data, *options.split(), "--workers", 1, "--checkpoint-interval", "1m")
    whole = Place(root, "streamed")
    finish(whole, arguments)
    return arguments, whole


@pytest.mark.slow
def test_lost_workers_end_the_run_and_cost_no_step(streamed, root, capsys):
    arguments, whole = streamed
    place = Place(root, "orphaned")
    lost = [orphaned(place, arguments, spared) for spared in range(5)]
    finish(place, arguments)
    check_same(whole, place)
    assert lost[0]  # further ones depend on how many processes the run has left to start
    with capsys.disabled():
        print(f"\n{lost.count(True)} lost workers")


@pytest.mark.slow
def test_signals_to_a_run_and_its_workers_cost_no_step(streamed, root, capsys):
    arguments, whole = streamed
    draw, found = random.Random(5), Counter()
    for count in range(24):
        place = Place(root, f"group-{count}")
        process = start(place, arguments)
        wait_for(lambda process=process: children(process.pid), process)
        time.sleep(draw.uniform(0, 1.5))
        number = draw.choice((signal.SIGTERM, signal.SIGINT))
        workers = children(process.pid)
        for member in (*workers, process.pid):
            with suppress(ProcessLookupError):
                os.kill(member, number)
        code, text = ended(process), place.err.read_text()
        assert code == 130 or (code == 0 and "Traceback" not in text), text
        assert code == 0 or re.match(r"error: interrupted|Aborted", text.splitlines()[-1]), text
        found[code, number.name, len(workers)] += 1
        finish(place, arguments)
        check_same(whole, place)
    with capsys.disabled():
        print("".join(f"\n{case}: {count}" for case, count in sorted(found.items())))


def orphaned(place, arguments, spared):
    """Kill each worker at its birth but for the first `spared`; return whether that ended the run."""
    process, seen = start(place, arguments), []
    while process.exitcode is None:
        new = [child for child in children(process.pid) if child not in seen]
        seen += new
        for child in new[max(spared - len(seen) + len(new), 0) :]:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        time.sleep(0.001)
    code, text = ended(process), place.err.read_text()
    check_files(place)
    assert "Traceback" not in text
    assert code == 0 or (code == 1 and "error: a process that decodes images was lost" in text), text
    return code == 1


def children(pid):
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []

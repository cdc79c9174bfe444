"""Locks keep processes apart, and end with their holder."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time

import pytest

from ann2snn_distill.errors import BadInputError
from ann2snn_distill.locks import locked

HOLDER = """
import sys, time
from pathlib import Path
from ann2snn_distill.locks import locked
with locked(Path(sys.argv[1]), waiting=lambda s: None):
    print("held", flush=True)
    time.sleep(600)
"""


class GaveUpError(Exception):
    pass


def give_up(seconds: float) -> None:
    raise GaveUpError


def impatient(limit: float):
    def wait(seconds: float) -> None:
        assert seconds < limit

    return wait


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path / "lock"], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_lock_that_another_process_holds_is_waited_for(tmp_path, holder):
    with pytest.raises(GaveUpError), locked(tmp_path / "lock", waiting=give_up):
        pytest.fail("two hold the lock")


def test_a_holder_that_is_killed_leaves_no_stale_lock(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    started = time.monotonic()
    with locked(tmp_path / "lock", waiting=impatient(10)):
        assert time.monotonic() - started < 10


def test_a_lock_is_free_again_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "lock", waiting=give_up):
        _ = 1 / 0
    with locked(tmp_path / "lock", waiting=give_up):
        pass


def test_a_process_that_inherits_the_lock_holds_it(tmp_path):
    path = tmp_path / "lock"
    with locked(path, waiting=give_up) as descriptor:
        child = subprocess.Popen(["sleep", "600"], pass_fds=(descriptor,))
    with pytest.raises(GaveUpError), locked(path, waiting=give_up):
        pytest.fail("the child holds it")
    child.kill()
    child.wait()
    with locked(path, waiting=impatient(10)):
        pass


def test_a_lock_that_cannot_be_made_is_refused_in_words(tmp_path):
    (tmp_path / "file").touch()
    lock = tmp_path / "file" / "lock"
    with pytest.raises(BadInputError, match=r"cannot lock .*; make its folder"), locked(lock, waiting=give_up):
        pytest.fail("there is no such lock")


def test_a_lock_file_that_is_removed_with_its_lock_still_keeps_two_apart(tmp_path):
    path, seen = tmp_path / "lock", []
    with locked(path, waiting=give_up, removed=True):
        with pytest.raises(GaveUpError), locked(path, waiting=give_up, removed=True):
            pytest.fail("two hold the lock")
        assert path.exists()
    assert not path.exists()

    def others_turn(descriptor, operation):
        """Lock only after the holder of the very file that was opened has removed it, and another made its own."""
        if not seen:
            seen.append(descriptor)
            path.unlink()
            path.touch()
        flock(descriptor, operation)

    flock = fcntl.flock
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", others_turn)
        with locked(path, waiting=impatient(10)) as descriptor:
            assert os.path.samestat(os.fstat(descriptor), path.stat())


def refusing(number):
    def flock(descriptor, operation):
        raise OSError(number, os.strerror(number))

    return flock


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_locks_nothing_and_stops_nobody(tmp_path, monkeypatch, number):
    monkeypatch.setattr(fcntl, "flock", refusing(number))
    with locked(tmp_path / "lock", waiting=give_up, removed=True):
        assert (tmp_path / "lock").exists()
    assert not (tmp_path / "lock").exists()


def test_a_lock_that_fails_otherwise_is_refused_in_words(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", refusing(errno.EIO))
    with pytest.raises(BadInputError, match="; choose another folder"), locked(tmp_path / "a", waiting=give_up):
        pytest.fail("it is not locked")


def test_a_full_disk_has_its_own_remedy(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(BadInputError, match="No space left on device; free"), locked(tmp_path / "a", waiting=give_up):
        pytest.fail("there is no such lock")

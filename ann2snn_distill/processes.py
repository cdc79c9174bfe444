"""Processors, and one function on many values, in processes of their own that end with this one."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection
from threading import Thread
from typing import TypeVar

from ann2snn_distill.errors import BadInputError

Value = TypeVar("Value")
Result = TypeVar("Result")


def usable_cpus() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def masked(*signals: signal.Signals) -> Iterator[None]:
    """Keep signals from this thread; processes that start meanwhile do not see them until they unmask them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def in_processes(work: Callable[[Value], Result], values: Sequence[Value], *, processes: int) -> Iterator[Result]:
    """Yield `work` of every value, in their order; below two processes, in this one.

    Args:
        work: a function of a module, as other processes import it.
        values: what it is given, one by one.
        processes: how many work at once.

    Raises:
        BadInputError: a process was lost.
    """
    if processes < 2:
        yield from map(work, values)
        return
    with _executor(processes) as executor:
        with masked(signal.SIGINT):  # the processes start here, and a Ctrl-C is for this one to answer
            futures = [executor.submit(work, value) for value in values]
        try:
            for future in futures:  # never cancelled, as Executor.map would: Python 3.11's executor trips over it
                yield future.result()
        except BrokenProcessPool as error:
            raise BadInputError(
                "a process that worked for this one was lost; memory may have run out: close other programs"
            ) from error


@contextmanager
def _executor(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Give an executor whose processes end at once where this one is interrupted, or killed."""
    context = multiprocessing.get_context("spawn")  # a fork would copy locks that other threads hold
    theirs, ours = context.Pipe(duplex=False)
    executor = ProcessPoolExecutor(processes, context, initializer=_started, initargs=(theirs,))
    try:
        yield executor
        executor.shutdown()
    finally:
        ours.close()
        executor.shutdown()
        theirs.close()


def _started(theirs: Connection) -> None:
    os.dup2(2, 1)  # what libraries print is no result
    Thread(target=_end_with, args=(theirs,), daemon=True).start()


def _end_with(theirs: Connection) -> None:
    theirs.poll(None)  # until the other end is closed
    os._exit(1)

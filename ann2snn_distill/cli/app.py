"""The command `snn-distill`: one file a command, and torch only inside them."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

import typer

from ann2snn_distill import __version__
from ann2snn_distill.cli.batch import batch
from ann2snn_distill.cli.bench import bench
from ann2snn_distill.cli.convert import convert
from ann2snn_distill.cli.env import env
from ann2snn_distill.cli.eval import evaluate
from ann2snn_distill.cli.inspect import inspect
from ann2snn_distill.cli.output import emit
from ann2snn_distill.cli.teach import teach
from ann2snn_distill.errors import InterruptedRunError

app = typer.Typer(
    name="snn-distill",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("convert")(convert)
app.command("eval")(evaluate)
app.command("inspect")(inspect)
app.command("teach")(teach)
app.command("batch")(batch)
app.command("bench")(bench)
app.command("env")(env)


def _print_version(wanted: bool) -> None:
    if wanted:
        emit(f"snn-distill {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="show the version, and stop"),
    ] = False,
) -> None:
    """Turn timm networks into spiking networks by hybrid rate-based distillation."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `arguments` (default: the process's own) and leave with the exit code of the interface."""
    with _terminated_as_interrupted():
        try:
            app(args=arguments, prog_name="snn-distill")
        except KeyboardInterrupt:  # before a command began; within one it has a message of its own
            raise SystemExit(InterruptedRunError.exit_code) from None
        except SystemExit as stop:
            if isinstance(stop.__context__, typer.Abort):  # what Typer makes of it while it reads the arguments
                raise SystemExit(InterruptedRunError.exit_code) from None
            raise


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM, a scheduler's or a container's way to stop a run, save its state as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt

"""The command `snn-distill`: one file a command, and torch only inside them."""

from collections.abc import Sequence
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


def run(arguments: Sequence[str] | None = None) -> int:
    """Run `arguments` (default: the process's own); return the exit code of the interface."""
    try:
        app(args=arguments, prog_name="snn-distill")
    except SystemExit as stop:
        if isinstance(stop.__context__, typer.Abort):  # what some versions of Typer make of Ctrl-C outside a command
            raise KeyboardInterrupt from None
        return stop.code if isinstance(stop.code, int) else 0
    return 0

"""Flags made from a settings model, so that a flag and a TOML key have one definition.

Every value reaches the model as text, and the model alone checks it: a bound stands in one place.
"""

import gc
import inspect
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel, TypeAdapter

from ann2snn_distill.cli.failures import exit_codes
from ann2snn_distill.cli.messages import flag_of
from ann2snn_distill.cli.resolve import Positional, resolve
from ann2snn_distill.cli.schema import Property, properties
from ann2snn_distill.collector import uncollected
from ann2snn_distill.config.kinds import HomePath

Json = Annotated[bool, typer.Option("--json", help="print the result as JSON on stdout, and nothing else there")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would happen, and stop")]

_CONFIG = inspect.Parameter(
    "config",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE.toml",
            help="settings by key; flags beat them",
            show_default=False,
            parser=TypeAdapter(HomePath).validate_python,
        ),
    ],
)

MODEL = Positional("model", "MODEL")

_ENGINE = "ann2snn_distill.pipeline"


def with_flags(
    settings: type[BaseModel],
    *,
    positional: Positional = MODEL,
    required: tuple[str, ...] = (),
    config: bool = False,
    kept: Callable[[Mapping[str, object]], Path | None] = lambda values: None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Turn `function(settings, *, extras)` into a command whose flags are the fields and the extras.

    Args:
        settings: the model whose fields become flags.
        positional: the field that is given without a flag.
        required: further fields that the user must give.
        config: whether `--config FILE.toml` may give fields, too.
        kept: the file that gives them for these flags where `--config` names none.
    """

    def compose(function: Callable[..., None]) -> Callable[..., None]:
        extras = list(inspect.signature(function).parameters.values())[1:]

        def command(**values: Any) -> None:
            with exit_codes():
                own = {extra.name: values.pop(extra.name) for extra in extras}
                file = values.pop("config", None) or kept(values)
                resolved = resolve(settings, values, config=file, positional=positional, required=required)
                _import_engine()
                function(resolved, **own)

        parameters = [
            *_parameters(settings, positional, first=required),
            *([_CONFIG] if config else []),
            *extras,
        ]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        command.__doc__ = function.__doc__
        return command

    return compose


def _import_engine() -> None:
    """Import what every command stands on, once its settings are known to be right.

    That takes seconds, a part of which is the collector's. All of it lasts, so that it is left out of every later
    collection, too.
    """
    if _ENGINE not in sys.modules:
        with uncollected():
            import_module(_ENGINE)
        gc.freeze()


def _parameters(
    settings: type[BaseModel], positional: Positional, *, first: tuple[str, ...]
) -> list[inspect.Parameter]:
    known = properties(settings)
    order = dict.fromkeys((positional.field, *first, *known))
    return [
        inspect.Parameter(
            field,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=_argument(known[field], positional)
            if field == positional.field
            else _option(field, known[field]),
        )
        for field in order
    ]


def _argument(known: Property, positional: Positional) -> Any:
    # Optional for Typer, as a TOML file may name it; `resolve` says when it is missing.
    return Annotated[str | None, typer.Argument(metavar=positional.metavar, help=known.help, show_default=False)]


def _option(field: str, known: Property) -> Any:
    flag = flag_of(field)
    if known.type == "boolean":
        both = f"{flag}/--no-{flag.removeprefix('--')}" if known.nullable else flag
        return Annotated[bool | None, typer.Option(both, help=known.help, show_default=False)]
    return Annotated[str | None, typer.Option(flag, metavar=known.metavar, help=known.help, show_default=False)]

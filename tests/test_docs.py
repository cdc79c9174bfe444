"""The documentation keeps up with the code: commands parse, links and names resolve, tables are the schemas'."""

import importlib
import importlib.util
import json
import re
import shlex
import shutil
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from pydantic import BaseModel

from ann2snn_distill.cli.app import app, run
from ann2snn_distill.cli.options import MODEL
from ann2snn_distill.cli.resolve import Positional, resolve
from ann2snn_distill.cli.runs_file import read_runs
from ann2snn_distill.config import BatchSettings, ConvertSettings, EvalSettings, InspectSettings, TeachSettings

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ann2snn_distill"
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]

SETTINGS: dict[str, tuple[type[BaseModel], Positional]] = {
    "convert": (ConvertSettings, MODEL),
    "teach": (TeachSettings, MODEL),
    "inspect": (InspectSettings, Positional("model", "MODEL|CKPT", unless="all")),
    "eval": (EvalSettings, Positional("checkpoint", "CKPT")),
    "batch": (BatchSettings, Positional("runs", "RUNS.toml")),
}

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^ {4}((?:\$ |\w+=\S+ )*snn-distill (?:[^\n\\]|\\\n)*)", re.MULTILINE)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NAMED = re.compile(r"^([\w/.]+\.py):([\w.]+)$")
LEADING = {"$", "-", "run:", "if", "!", "then", "do", "else", "time"}


def command_lines(text: str) -> list[list[str]]:
    """The arguments of every `snn-distill` in a piece of shell, without what pipes and redirections add."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("();<>|&"):
                if words and Path(words[0]).name == "snn-distill":
                    found.append(words[1:])
                words = []
            elif words or not (word in LEADING or re.fullmatch(r"\w+=.*", word)):
                words.append(word)
    return found


def python_of(page: Path) -> list[str]:
    """The Python programs of a page."""
    return [block for language, block in FENCE.findall(page.read_text(encoding="utf-8")) if language == "python"]


@pytest.mark.parametrize(
    "program",
    [pytest.param(text, id=f"{page.name}-{index}") for page in PAGES for index, text in enumerate(python_of(page))],
)
def test_every_python_program_runs(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = tmp_path / "runs/demo/student.safetensors"
    student.parent.mkdir(parents=True)
    shutil.copy(ROOT / "tests/fixtures/student-v2.safetensors", student)
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "<docs>", "exec"), {})


def commands_of(page: Path) -> list[tuple[str, bool]]:
    """Each command line of a page, and whether it is complete: those in running text may be mere names."""
    text = page.read_text(encoding="utf-8")
    prose = FENCE.sub("", text)
    blocks = [*(block for _, block in FENCE.findall(text)), *INDENTED.findall(prose)]
    whole = [(shlex.join(words), True) for block in blocks for words in command_lines(block)]
    spans = [span for span in CODE.findall(prose) if span.startswith("snn-distill")]
    return whole + [(shlex.join(words), False) for span in spans for words in command_lines(span)]


def check_command(arguments: list[str], *, complete: bool) -> None:
    """Parse as the command line does, and check every value against the settings, without running."""
    root = typer.main.get_command(app)
    context = root.make_context("snn-distill", list(arguments), resilient_parsing=True)
    if not arguments or arguments[0].startswith("-"):
        assert not context.args, f"unknown arguments {context.args}"
        return
    name, command, rest = root.resolve_command(context, arguments)
    assert name is not None and command is not None, f"no command {arguments[0]}"  # noqa: PT018 - one message
    given = command.make_context(name, list(rest), parent=context, resilient_parsing=True).params
    if not complete or "--help" in rest or name not in SETTINGS:
        return
    settings, positional = SETTINGS[name]
    values: dict[str, Any] = {key: value for key, value in given.items() if key in settings.model_fields}
    for key, value in values.items():
        if key not in (positional.field, "dataset") and re.fullmatch(r"[A-Z]+", str(value)):
            values[key] = None  # a placeholder, such as METHOD
    if given.get("config") is not None:
        file = {key: "any" for key in (positional.field, "dataset") if values.get(key) is None}
        values = {**values, **file}
    required = ("dataset",) if name in ("convert", "teach") else ()
    resolve(settings, values, config=None, positional=positional, required=required)


@pytest.mark.parametrize(
    ("page", "line", "complete"),
    [pytest.param(p.name, line, whole, id=f"{p.name}: {line}") for p in PAGES for line, whole in commands_of(p)],
)
def test_every_command_line_shown_is_one_that_the_command_takes(page: str, line: str, complete: bool) -> None:
    check_command(shlex.split(line), complete=complete)


@pytest.mark.parametrize(
    "line",
    [
        "convert test_resnet --dataset digits --no-such-flag 3",
        "convert test_resnet --dataset digits --timesteps 0",
        "convert test_resnet --dataset digits --method other",
        "convert test_resnet",
        "transmute test_resnet",
    ],
)
def test_the_check_sees_a_command_line_that_is_wrong(line: str) -> None:
    with pytest.raises(Exception, match=r"(?i)no such|must be|missing|no command"):
        check_command(shlex.split(line), complete=True)


def test_command_lines_are_found_among_shell() -> None:
    text = (
        "$ A=1 snn-distill env --json > out.json  # versions\nif ! snn-distill eval a \\\n  --json | head; then x; fi\n"
    )
    assert command_lines(text) == [["env", "--json"], ["eval", "a", "--json"]]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_resolve(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_functions_named_exist(page: Path) -> None:
    for span in CODE.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        named = NAMED.match(span)
        path = named[1] if named else span
        if not re.fullmatch(r"[\w/.-]+(\.py|/)", path) or path.startswith("runs/"):
            continue
        if named:
            check_name(path, named[2])
        elif path.endswith(".py") or path.startswith("tests/"):
            assert any((base / path).exists() for base in (PACKAGE, ROOT)), span


def check_name(path: str, name: str) -> None:
    if path.startswith("tests/"):
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path} has no {name}"
        return
    module = importlib.import_module("ann2snn_distill." + path.removesuffix(".py").replace("/", "."))
    reduce(getattr, name.split("."), module)


def test_every_room_of_the_layers_contract_is_described() -> None:
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    for entry in sorted(PACKAGE.iterdir()):
        if entry.name.startswith("_"):
            continue
        assert f"`{entry.name}{'/' if entry.is_dir() else ''}`" in text, entry.name


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_the_formats_are_those_of_the_schemas() -> None:
    page = (ROOT / "docs" / "checkpoint-format.md").read_text(encoding="utf-8")
    assert page.count("<!-- generated: ") == page.count("<!-- end -->") == 2
    assert generator().rewritten(page) == page, "the schemas changed: run `python docs/generate.py`"


def test_the_table_of_defaults_is_the_recipes() -> None:
    page = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    assert page.count("<!-- generated: Recipes -->") == page.count("<!-- end -->") == 1
    assert generator().with_recipes(page) == page, "the recipes changed: run `python docs/generate.py`"


def test_no_page_speaks_of_this_machine() -> None:
    for page in PAGES:
        assert not re.search(r"/(tmp|home|root)/", page.read_text(encoding="utf-8")), page.name


def test_the_example_of_a_batch_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["batch", str(ROOT / "docs" / "runs" / "digits.toml"), "--dry-run", "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)
    assert len(runs) == 13
    assert {found["state"] for found in runs} == {"waiting"}


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "runs").glob("*.toml")), ids=lambda path: path.stem)
def test_every_file_of_runs_holds_runs_with_known_settings_and_names_of_their_own(path: Path) -> None:
    names = [named.name for named in read_runs(path)]
    assert len(names) == len(set(names)) >= 4
    assert f"snn-distill batch docs/runs/{path.name}" in path.read_text(encoding="utf-8")

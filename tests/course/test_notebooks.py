"""The notebooks as texts: what they name exists, what they say was recorded, and they are those of their sources."""

from __future__ import annotations

import ast
import builtins
import importlib
import re
import statistics
from pathlib import Path

import pytest

from fuselab.course import build, recorded
from fuselab.course.cells import NAMES, cells, code_of, directory, names_made, names_used, source
from fuselab.env_vars import catalogue
from fuselab.env_vars.installation import Installation

BOTH = pytest.mark.parametrize("name", NAMES)
MEASURED = re.compile(r"\b\d+(?:\.\d+)?\s*(?:us|µs|ms|ns|seconds|[GMT]B/s|[GMT]B|x)\b|\b\d+(?:\.\d+)?\s*%|\b\d+\.\d+\b")
AGREED = {"95%", "1%"}
"""The interval's confidence and the margin: settings, not measurements."""
SECTION = re.compile(r"^(?:#.*|.*\bsections? .*)$|\(\d\.\d(?:, \d\.\d)*\)|\b(?:in|to) \d\.\d\b", re.MULTILINE)
VARIABLE = re.compile(r"\b(?:TORCH|TRITON|PYTORCH|INDUCTOR|CUDA)[A-Z]*_[A-Z_0-9]*[A-Z0-9]\b")
MODULES = {
    "torch": "torch",
    "triton": "triton",
    "tl": "triton.language",
    "fuselab": "fuselab",
    "F": "torch.nn.functional",
}
SHORT = 8
LONGEST_FUNCTION = 15


def prose(name: str) -> str:
    return "\n\n".join(cell.text for cell in cells(source(name)) if cell.kind == "markdown")


def code(name: str) -> list[ast.Module]:
    return [code_of(cell) for cell in cells(source(name)) if cell.kind == "code"]


@BOTH
def test_notebook_is_that_of_its_source(name: str) -> None:
    assert build.problems(name) == []


@pytest.mark.parametrize(("module", "name"), re.findall(r'stages\.kernel\("([\w.]+)", "(\w+)"\)', source(NAMES[1])))
def test_every_kernel_that_is_shown_is_there(module: str, name: str) -> None:
    pytest.importorskip("triton")
    assert callable(getattr(importlib.import_module(module), name))


@BOTH
def test_every_reference_is_to_a_recorded_figure(name: str) -> None:
    found = recorded.references(prose(name))
    assert len(found) >= 10
    assert all(recorded.figure(reference) for reference in found)


@BOTH
def test_no_figure_stands_in_the_prose_itself(name: str) -> None:
    own = SECTION.sub("", recorded.REFERENCE.sub("", re.sub(r"`[^`]*`|^\|.*$", "", prose(name), flags=re.MULTILINE)))
    assert set(MEASURED.findall(own)) - AGREED == set()


def test_a_figure_in_the_prose_is_found() -> None:
    for text in ("it is 1.5x faster", "takes 12 us", "reaches 80%", "at 4.1 TB/s"):
        assert MEASURED.findall(text)


@BOTH
def test_figures_of_the_notebook_are_those_recorded(name: str) -> None:
    import nbformat

    written = nbformat.read(directory() / f"{name}.ipynb", as_version=4)
    shown = "\n\n".join(cell.source for cell in written.cells if cell.cell_type == "markdown")
    assert not recorded.references(shown)
    for reference in recorded.references(prose(name)):
        assert recorded.figure(reference) in shown


@pytest.mark.parametrize("where", [*(f"{name}.md" for name in NAMES), "README.md"])
def test_every_variable_is_read_by_what_is_installed(where: str) -> None:
    named = set(VARIABLE.findall((directory() / where).read_text(encoding="utf-8")))
    known, here = catalogue().by_name, Installation.here()
    assert named <= set(known)
    assert [v for v in named if here.in_range(known[v]) and not here.look(known[v]).found] == []


@BOTH
def test_every_name_of_a_library_exists(name: str) -> None:
    chains = {
        match
        for span in re.findall(r"`([^`]+)`", prose(name))
        for match in re.findall(r"\b(?:torch|triton|tl|fuselab|F)(?:\.\w+)+", span)
    }
    for tree in code(name):
        chains |= {c for node in ast.walk(tree) if isinstance(node, ast.Attribute) and (c := chain_of(node))}
    missing = [chain for chain in sorted(chains) if not exists(chain)]
    assert len(chains) > 5
    assert missing == []


def chain_of(node: ast.Attribute) -> str:
    parts = [node.attr]
    value = node.value
    while isinstance(value, ast.Attribute):
        parts.append(value.attr)
        value = value.value
    return ".".join([value.id, *reversed(parts)]) if isinstance(value, ast.Name) and value.id in MODULES else ""


def exists(chain: str) -> bool:
    first, *rest = chain.split(".")
    try:
        value = importlib.import_module(MODULES[first])
    except ImportError:
        pytest.skip(f"{MODULES[first]} is not installed")
    for part in rest:
        if not hasattr(value, part):
            try:
                value = importlib.import_module(f"{value.__name__}.{part}")
                continue
            except (ImportError, AttributeError):
                return False
        value = getattr(value, part)
    return True


def test_a_name_that_does_not_exist_is_found() -> None:
    assert exists("torch.nn.functional.gelu")
    assert not exists("torch.compile_fast")


@BOTH
def test_every_helper_that_a_cell_calls_exists(name: str) -> None:
    helpers = {}
    for tree in code(name):
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("fuselab"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    helpers[alias.name] = getattr(module, alias.name, None) or importlib.import_module(
                        f"{node.module}.{alias.name}"
                    )
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in helpers:
                assert hasattr(helpers[node.value.id], node.attr), f"{node.value.id}.{node.attr}"
    assert {"check", "lesson", "predict", "recorded", "stages"} <= set(helpers)


@BOTH
def test_cells_are_short_and_print_nothing(name: str) -> None:
    lengths = [len(cell.text.splitlines()) for cell in cells(source(name)) if cell.kind == "code"]
    assert statistics.median(lengths) < SHORT
    for tree in code(name):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno + 1 <= LONGEST_FUNCTION
            assert not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print")


@BOTH
def test_a_cell_uses_only_what_an_earlier_one_makes(name: str) -> None:
    made = set(dir(builtins))
    for tree in code(name):
        own = names_made(tree) | {
            a.arg for node in ast.walk(tree) if isinstance(node, ast.arguments) for a in node.args
        }
        own |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        assert names_used(tree) - own <= made
        made |= names_made(tree)


@BOTH
def test_both_readers_of_a_source_agree(name: str) -> None:
    ours = [
        (cell.kind, recorded.fill(cell.text) if cell.kind == "markdown" else cell.text) for cell in cells(source(name))
    ]
    theirs = [(cell.cell_type, cell.source.strip("\n")) for cell in build.build(name).cells]
    assert ours == theirs


@BOTH
def test_every_exercise_that_a_notebook_checks_is_there(name: str) -> None:
    from fuselab.course.exercises import EXERCISES

    checked = set(re.findall(r'check\("(\w+)"', source(name)))
    assert checked == {exercise.name for exercise in EXERCISES.values() if exercise.notebook == name}
    assert all((directory() / "exercises" / f"{exercise}.py").is_file() for exercise in checked)


def test_expectations_of_the_readme_are_those_recorded() -> None:
    assert build.readme_problems() == []
    for experiment in ("layer_norm_gelu", "softmax_dropout", "rms_norm", "silu"):
        assert experiment in recorded.expectations_markdown()


def test_every_file_that_a_cell_names_is_there() -> None:
    for name in NAMES:
        named = re.findall(r'"((?:labs|exercises)/\w+\.py)', source(name))
        assert named
        assert [path for path in named if not (directory() / path).is_file()] == []


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("1.15x", "1.51x", "stale"),
        ("AOTAutograd", "AOTAutoGrad", "is not that of the source"),
    ],
)
def test_drift_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str, said: str) -> None:
    import nbformat

    name = NAMES[0]
    written = nbformat.read(directory() / f"{name}.ipynb", as_version=4)
    changed = [c for c in written.cells if c.cell_type == "markdown" and before in c.source]
    changed[0].source = changed[0].source.replace(before, after, 1)
    monkeypatch.setattr(build, "written", lambda _: written)
    (problem,) = build.problems(name)
    assert said in problem


@pytest.mark.parametrize("text", ["/home/ada/work/x.py", "/tmp/torchinductor_ada", "see /Users/ada/runs"])
def test_a_path_of_a_machine_is_found(text: str) -> None:
    import nbformat

    cell = nbformat.v4.new_code_cell("x", outputs=[nbformat.v4.new_output("stream", text=text)])
    assert list(build.leaks(nbformat.v4.new_notebook(cells=[cell]), "some"))


def test_what_is_no_path_is_left_alone() -> None:
    import nbformat

    text = "labs/first.py, 12/20, </small>, https://pytorch.org/home/x and a/b"
    cell = nbformat.v4.new_code_cell("x", outputs=[nbformat.v4.new_output("stream", text=text)])
    assert list(build.leaks(nbformat.v4.new_notebook(cells=[cell]), "some")) == []


@BOTH
def test_pictures_show_in_a_notebook_that_nobody_trusts(name: str) -> None:
    import nbformat

    written = nbformat.read(directory() / f"{name}.ipynb", as_version=4)
    data = [output.get("data", {}) for cell in written.cells for output in cell.get("outputs", [])]
    assert not [one for one in data if "<svg" in one.get("text/html", "")]
    assert len([one for one in data if "image/png" in one]) >= 5


def test_an_svg_becomes_a_png_and_the_words_stay() -> None:
    import nbformat

    html = '<div><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg></div><p>words</p>'
    picture, words = build.pictured(nbformat.v4.new_output("display_data", data={"text/html": html, "text/plain": "t"}))
    assert picture.data["text/plain"] == "t"
    assert picture.data["image/png"].startswith("iVBOR")
    assert "words" in words.data["text/html"]
    plain = nbformat.v4.new_output("display_data", data={"text/plain": "t"})
    assert build.pictured(plain) == [plain]

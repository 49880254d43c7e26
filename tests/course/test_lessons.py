"""What the cells call: recorded figures, predictions, lies, pictures, stages, help for cells out of order."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest

from fuselab.course import bounds, display, labs, lesson, lies, patterns, pictures, predict, recorded, stages
from fuselab.errors import UnknownNameError, UsageError
from fuselab.records import Stage, Verdict


@pytest.mark.parametrize(
    "reference",
    [
        "speed rms_norm 16384x4096 forward triton",
        "time rms_norm forward triton",
        "time rms_norm 16384x4096 forward tritn",
        "time layernorm 16384x4096 forward triton",
        "slower rms_norm 16384x4096 forward compile",
        "saved silu 16384x4096 backward compile",
        "limiter silu 1x1 forward",
    ],
)
def test_a_figure_that_was_not_recorded_is_refused(reference: str) -> None:
    with pytest.raises(UsageError):
        recorded.figure(reference)


def test_a_withheld_speedup_is_never_a_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    import msgspec

    words = "silu 16384x4096 backward compile"
    cell = recorded.measurement(words)
    assert cell.comparison is not None
    assert recorded.figure(f"speedup {words}") in recorded._cell_text(cell)
    comparison = msgspec.structs.replace(cell.comparison, verdict=Verdict.WITHHELD)
    withheld = msgspec.structs.replace(cell, comparison=comparison)
    monkeypatch.setattr(recorded, "measurement", lambda _: withheld)
    with pytest.raises(UsageError):
        recorded.figure(f"speedup {words}")
    assert "withheld" in recorded._cell_text(withheld)


def test_figures_follow_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    before = recorded.fill("it takes {{time silu 16384x4096 forward eager}}")
    cell = recorded.measurement("silu 16384x4096 forward eager")
    import msgspec

    slower = msgspec.structs.replace(cell, median_ns=2 * cell.median_ns)
    monkeypatch.setattr(recorded, "measurement", lambda _: slower)
    assert before == "it takes 69.6 us"
    assert recorded.fill("it takes {{time silu 16384x4096 forward eager}}") == "it takes 139 us"


def test_everything_recorded_is_marked() -> None:
    assert repr(recorded.table("rms_norm", "16384x4096")).startswith("recorded on NVIDIA H200")
    assert repr(recorded.expectations()).startswith("recorded on NVIDIA H200")
    with pytest.raises(UsageError):
        recorded.table("rms_norm", "1x1")


@pytest.mark.parametrize(
    ("guess", "measured", "points"), [(2.0, 2.0, 10), (2.0, 2.4, 10), (1.0, 8.0, 0), (8.0, 1.0, 0), (1.0, 3.0, 5)]
)
def test_points(guess: float, measured: float, points: int) -> None:
    asked = predict.predict("how much", "x", guess)
    assert asked.factor == math.inf
    asked.answer(measured, bound=4.0)
    assert asked.points == points
    assert "how much" in repr(predict.score())


def test_a_guess_has_to_be_a_number_above_zero() -> None:
    for guess in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(UsageError):
            predict.predict("how much", "x", guess)


def test_a_prediction_without_a_measurement_keeps_no_score() -> None:
    asked = predict.predict("never measured", "us", 3.0)
    assert "Nothing was measured" in repr(asked.answer(None))
    assert "never measured" not in repr(predict.score())


def test_a_form_without_widgets(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert "your guess is 3 us" in repr(predict.predict("how long", "us", 3.0).form())


def test_a_typed_guess_counts() -> None:
    pytest.importorskip("ipywidgets")
    asked = predict.predict("how long", "us", 3.0)
    field, then = asked.form().children
    assert then.value == "us. Type your guess here, then run the next cell."
    field.value = 7.0
    assert asked.guess == 7.0
    field.value = -1.0
    assert asked.guess == 7.0


def test_drift_deceives_a_t_test_and_not_rounds() -> None:
    told, so = lies.drift(pairs=150, seed=1).values.values()
    assert told > 50
    assert so < 12


@pytest.mark.parametrize("lie", [lies.no_waiting, lies.warm_cache, lies.order])
def test_a_lie_has_two_figures(lie: object) -> None:
    found = lie()  # type: ignore[operator]
    assert len(found.values) == 2
    assert all(value > 0 for value in found.values.values())
    assert "<svg" in found._repr_html_()
    assert found.why in repr(found)


def test_not_waiting_is_faster_than_waiting() -> None:
    told, so = lies.no_waiting(size=1024).values.values()
    assert so > 2 * told


def test_bytes_of_an_eager_call() -> None:
    import torch

    x = torch.randn(8, 16)
    steps, fewest = pictures.moved_bytes(lambda x: (x * torch.sigmoid(x)).view(-1), x)
    assert steps == [("sigmoid", 512, 512), ("mul", 1024, 512)]
    assert fewest == (512, 512)
    steps, _ = pictures.moved_bytes(lambda x: torch.empty_like(x).bernoulli_(0.5), x)
    assert steps == [("bernoulli_", 0, 512)]


def test_roofline_and_its_bounds() -> None:
    assert (
        bounds.fewest_us("silu 16384x4096 forward eager")
        < recorded.measurement("silu 16384x4096 forward eager").median_ns / 1e3
    )
    assert bounds.intensity("rms_norm 16384x4096 forward eager") < bounds.ridge("h200")
    assert "<svg" in bounds.roofline()._repr_html_()
    assert "instructions" in repr(bounds.recorded_limits())


def test_a_picture_of_nothing_is_refused() -> None:
    for values in ({}, {"a": 0.0}):
        with pytest.raises(UsageError):
            pictures.log_bars("nothing", values, "us")


def test_a_cell_out_of_order_says_which_one_it_needs() -> None:
    said = lesson.cell_needed("made", "pytorch-triton-basics")
    assert "Every stage, live" in said
    assert "torch.randn" in said
    assert lesson.cell_needed("no_such_name", "pytorch-triton-basics") == ""


def test_the_shell_says_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    monkeypatch.setattr(lesson, "_shell", lambda: shell)
    lesson.start("pytorch-triton-basics", device="cpu")
    shell.run_cell("made['ptx']")
    said = capsys.readouterr()
    assert "made is not there yet" in said.out + said.err
    shell.run_cell("nothing_of_ours")
    assert "not there yet" not in (said := capsys.readouterr()).out + said.err
    assert "nothing_of_ours" in said.out + said.err


def test_a_notebook_that_does_not_exist() -> None:
    with pytest.raises(UsageError):
        lesson.start("triton-basics")


def test_without_triton_it_says_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "triton" else find(name))
    here = lesson.start("triton-optimization", device="cpu")
    assert not here.triton
    assert "recorded results are shown" in repr(here)
    assert "not installed" in repr(stages.kernel("fuselab.ops.silu", "_silu_forward_kernel"))


def test_files_of_the_course_are_loaded_afresh(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    for value in (1, 22):
        file.write_text(f"def f():\n    return {value}\n\n\ndef g():\n    return 0\n")
        f, g = lesson.load(str(file), "f", "g")
        assert (f(), g()) == (value, 0)
    with pytest.raises(UsageError):
        lesson.load(str(tmp_path / "absent.py"), "f")


def test_variables_and_their_moments() -> None:
    said = repr(labs.variables("TORCH_LOGS", "TRITON_INTERPRET"))
    assert "torch" in said
    assert "triton" in said
    with pytest.raises(UnknownNameError):
        labs.variables("TORCH_LOG")


def test_findings_of_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    from fuselab.course.cells import directory

    monkeypatch.chdir(directory())
    said = repr(labs.script_findings("labs/too_late.py"))
    assert all(words in said for words in ("too late", "misread", "read by nothing"))


@pytest.mark.parametrize(
    ("stage", "text", "wanted"),
    [
        (Stage.CPP, '#include <a>\nextern "C" void kernel()\n{\n}', 'extern "C" void kernel()\n{\n}'),
        (Stage.TTIR, '#loc = loc("a.py":1:0)\n%0 = tt.load %x loc(#loc3)', "%0 = tt.load %x"),
        (Stage.PTX, "//\n.version 8\n.visible .entry k(\n)\n\t.loc\t1 2 3\n\tret;", ".visible .entry k(\n)\n\tret;"),
        (Stage.SASS, '\t//## File "a"\n.text.k:\n        /*0000*/  NOP ;', ".text.k:\n        /*0000*/  NOP ;"),
        (
            Stage.FORWARD_GRAPH,
            "mul: 'f32[2]' = torch.ops.aten.mul.Tensor(a, b);  a = b = None\nreturn (mul,)",
            "mul: 'f32[2]' = aten.mul.Tensor(a, b)\nreturn (mul,)",
        ),
        (Stage.FUSION, "{}", "{}"),
    ],
)
def test_what_a_stage_leaves_out(stage: Stage, text: str, wanted: str) -> None:
    assert stages.without_preamble(text, stage) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("/home/ada/x/first.py:7", "first.py:7"),
        ("in /tmp/torchinductor_ada", "in torchinductor_you"),
        ("labs/first.py", "labs/first.py"),
        ("a/b/c and 3/4/5", "a/b/c and 3/4/5"),
        ("https://pytorch.org/docs/stable/x", "https://pytorch.org/docs/stable/x"),
        ("<b>x</b></td></tr>", "<b>x</b></td></tr>"),
    ],
)
def test_paths_are_cut(text: str, wanted: str) -> None:
    assert display.plain_paths(text) == wanted


def test_what_a_command_says_is_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    import os
    import sys

    with display.quietly():
        print("one")
        print("two", file=sys.stderr)
        os.write(2, b"three")
    print("four")
    said = capfd.readouterr()
    assert said.out == "four\n"
    assert "three" not in said.err


def test_there_is_no_view_of_a_number() -> None:
    with pytest.raises(TypeError):
        display.show(3)


@pytest.mark.slow
def test_every_stage_of_a_function() -> None:
    import torch

    def twice(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.silu(x) * 2

    made = stages.stages(twice, torch.randn(4, 64, requires_grad=True))
    assert "silu" in repr(made["dynamo_graph"])
    assert "aten.exp" in repr(made["forward_graph"])  # silu, decomposed
    assert "cpp_fused" in repr(made.fused())
    assert "assembly" in repr(made.line_by_line())
    with pytest.raises(UnknownNameError):
        made["sass"]
    assert "compiled" in repr(patterns.errors(twice, torch.randn(4, 64)))

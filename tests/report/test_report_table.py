"""The table says what was measured, at every width, whatever the names are."""

from __future__ import annotations

import io
import re
import subprocess
import sys

import pytest
from report_factory import CPU, H200, a_run, cell, compared, failed, workload
from rich.cells import cell_len
from rich.console import Console

from fuselab.records import Ceiling, Direction, Environment, Measurement, Status, Verdict
from fuselab.report.table import results_table

NAN = float("nan")


def shown(measurements: list[Measurement], width: int = 120, environment: Environment = CPU) -> str:
    console = Console(record=True, width=width, file=io.StringIO(), color_system="truecolor")
    console.print(results_table(measurements, environment))
    return console.export_text(styles=False)


def styled(measurements: list[Measurement], text: str) -> str:
    console = Console(record=True, width=120, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(results_table(measurements, CPU))
    return next(line for line in console.export_text(styles=True).splitlines() if text in line)


EXPECTED_120 = """\
CPU AMD EPYC 7R13, 2 cores · torch 2.13.0 · triton 3.7.1 · CPU figures, they say nothing about a GPU

  direction variant                          time speedup                          ceiling kernels correct
──────────────────────────────────────────────────────────────────────────────────────────────────────────────────
layer_norm_gelu  4096x1024 f32 approximate=none
  forward   eager                 12.34 ± 0.07 ms baseline                             90%       2 yes
            compile              3.212 ± 0.017 ms 3.84x [3.80, 3.88]    faster         90%       1 yes     [1]
            triton               checked, not timed (in Triton's interpreter on 8x1024)            yes
  backward  eager                 32.09 ± 0.17 ms baseline                             90%       2 yes
            compile                8.35 ± 0.05 ms 3.84x [3.80, 3.88]    faster         90%       1 yes     [1]
            triton               checked, not timed (in Triton's interpreter on 8x1024)            yes
"""

EXPECTED_80 = """\
  variant                          time speedup                   ceil ok
────────────────────────────────────────────────────────────────────────────────
layer_norm_gelu  4096x1024 f32 approximate=none  forward
  eager                 12.34 ± 0.07 ms baseline                   90% yes
  compile              3.212 ± 0.017 ms 3.84x [3.80, 3.88] faster  90% yes [1]
"""


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]


def test_a_run_at_120_columns() -> None:
    lines = _lines(shown(a_run()))
    figures_of = {tuple(line.split()) for line in _lines(EXPECTED_120) if "─" not in line and line}
    assert figures_of <= {tuple(line.split()) for line in lines}
    assert "rms_norm  2x512x4096 f32 residual=True casting=llama" in lines
    assert any("wrong: output: rms error 0.02 is 31x eager's own" in line and line.endswith("no") for line in lines)
    assert any("crashed: killed by signal 11" in line for line in lines)
    assert "not here: liger (liger-kernel is not installed: pip install liger-kernel)" in lines
    assert "[1] the load of this machine was 3.1 on 2 cores: intervals are wide" in lines


def test_a_run_at_80_columns() -> None:
    lines = _lines(shown(a_run(), 80))
    figures_of = {tuple(line.split()) for line in _lines(EXPECTED_80) if "─" not in line}
    assert figures_of <= {tuple(line.split()) for line in lines}
    assert any(line.startswith("[2] warm: ") for line in lines)
    assert any(line.endswith("equal   90% yes [2]") for line in lines)
    assert any(line.endswith("slower  90% yes [2,3]") for line in lines)


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_no_line_is_wider_than_the_terminal_and_columns_stand_in_line(width: int) -> None:
    lines = shown(a_run(), width).splitlines()
    assert all(cell_len(line) <= width for line in lines)
    rows = [line.rstrip() for line in lines if " ms " in line or " us " in line]
    assert len(rows) == 8
    ends = {line.index(" ms") if " ms" in line else line.index(" us") for line in rows}
    assert len(ends) == 1


def test_labels_are_words_where_there_is_room() -> None:
    wide = shown(a_run(), 200)
    assert "warm, launch-bound" in wide
    assert "[2]" not in wide


def test_a_label_of_every_cell_is_said_once() -> None:
    cells = [cell(v, labels=["CPU", "warm"], comparison=compared(1.5)) for v in ("compile", "triton")]
    text = shown(cells, 200)
    assert text.count("warm") == 1
    assert "· all warm" in text.splitlines()[0]


@pytest.mark.parametrize(
    ("verdict", "speedup", "expected", "colour"),
    [
        (Verdict.FASTER, 1.83, "1.83x [1.81, 1.85]  faster", "\x1b[32m"),
        (Verdict.SLOWER, 0.83, "0.83x [0.81, 0.85]  slower", "\x1b[31m"),
        (Verdict.EQUIVALENT, 1.0, "1.00x [0.98, 1.02]  equivalent", "\x1b[2m"),
        (Verdict.UNRESOLVED, 1.02, "1.02x [1.00, 1.04]  unresolved", "\x1b[33m"),
    ],
)
def test_a_verdict_has_its_words_and_its_colour(verdict: Verdict, speedup: float, expected: str, colour: str) -> None:
    cells = [cell(), cell("compile", comparison=compared(speedup, verdict=verdict))]
    assert expected in shown(cells)
    assert f"{colour}{expected.split(maxsplit=1)[0]}" in styled(cells, verdict.value)


def test_what_is_not_to_be_trusted_shows_no_speedup() -> None:
    withheld = cell("fast", comparison=compared(99.0, verdict=Verdict.WITHHELD), warnings=["faster than the ceiling"])
    wrong = failed("zeros", Status.WRONG, "grad x: all zeros", comparison=compared(77.0), median_ns=1.0)
    text = shown([cell(), withheld, wrong])
    assert "99" not in text
    assert "77" not in text
    assert "withheld" in text
    assert "[1] faster than the ceiling" in text
    assert "wrong: grad x: all zeros" in text
    odd = cell("odd", correctness=wrong.correctness, comparison=compared(55.0))
    assert "55" not in shown([cell(), odd])


def test_a_gpu_is_not_called_a_cpu() -> None:
    text = shown([cell(device=H200.device, labels=[])], environment=H200)
    assert text.startswith("NVIDIA H200 · torch 2.11.0 · triton 3.6.0\n") or "CPU" not in text


def test_a_cpu_is_always_called_one() -> None:
    assert shown([cell()], environment=Environment(device="AMD EPYC", device_type="cpu")).startswith("CPU AMD EPYC")


def test_nothing_measured_one_sample_and_no_number() -> None:
    assert "nothing was measured" in shown([])
    only = failed("liger", Status.UNAVAILABLE, "not installed")
    assert "nothing was measured" in shown([only])
    assert "not here: liger (not installed)" in shown([only])
    single = cell("compile", low_ns=None, high_ns=None, comparison=None, ceiling=None, kernels_launched=None)
    (line,) = [line for line in shown([single]).splitlines() if "compile" in line]
    assert line.split() == ["forward", "compile", "12.0", "us", "-", "-", "-", "yes"]
    ceiling = Ceiling(bytes_per_s=NAN, duration_ns=NAN, share=NAN, method="x")
    no_number = cell("compile", median_ns=NAN, low_ns=NAN, high_ns=NAN, ceiling=ceiling, comparison=compared(NAN))
    assert "nan" not in shown([no_number]).lower()


def test_where_a_variant_is_missing() -> None:
    back = {"direction": Direction.BACKWARD}
    cells = [
        cell("compile"),
        failed("compile", Status.UNAVAILABLE, "no input requires a gradient", **back),
        failed("quack", Status.UNAVAILABLE, "needs a GPU"),
        failed("quack", Status.UNAVAILABLE, "needs a GPU", **back),
    ]
    expected = "not here: compile in layer_norm_gelu backward (no input requires a gradient); quack (needs a GPU)"
    assert expected in shown(cells)


HOSTILE = "[bold red]x[/] \x1b[2J\x1b]0;title\x07 \u202etxt.exe\r\n</script><img src=x onerror=alert(1)> [/] [link=x]"


def test_hostile_names_are_shown_and_not_obeyed() -> None:
    cells = [
        cell(
            HOSTILE, experiment=HOSTILE, warnings=[HOSTILE], labels=[HOSTILE, "CPU"], workload=workload(layout=HOSTILE)
        ),
        failed(HOSTILE + "2", Status.ERROR, HOSTILE, experiment=HOSTILE),
        failed(HOSTILE + "3", Status.UNAVAILABLE, HOSTILE, experiment=HOSTILE),
    ]
    environment = Environment(device=HOSTILE, device_type="cpu", versions={"torch": HOSTILE})
    for width in (80, 120, 400):
        text = shown(cells, width, environment)
        assert not set(text) & set("\x1b\x07\r\u202e")
        assert "[bold red]x[/]" in text


def test_many_warnings_end_in_a_count() -> None:
    cells = [cell(f"v{n}", warnings=[f"warning number {n}"]) for n in range(40)]
    text = shown(cells)
    assert "[12] warning number 11" in text
    assert "[13]" not in text
    assert "and 28 more warnings" in text


def test_a_terminal_without_unicode_gets_ascii() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from report_factory import a_run, CPU;"
        "from fuselab.report.table import results_table; from rich.console import Console;"
        "Console(width=120).print(results_table(a_run(), CPU)); assert 'torch' not in sys.modules"
    )
    environment = {"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin"}
    result = subprocess.run(
        [sys.executable, "-c", code, __file__.rpartition("/")[0]], capture_output=True, env=environment, check=True
    )
    text = result.stdout.decode("ascii")
    assert "12.34 ~ 0.07 ms" in text
    assert "\x1b" not in text


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    plain, coloured = io.StringIO(), io.StringIO()
    Console(width=120, force_terminal=True, file=plain).print(results_table(a_run(), CPU))
    monkeypatch.delenv("NO_COLOR")
    Console(width=120, force_terminal=True, file=coloured, color_system="standard").print(results_table(a_run(), CPU))
    colours = re.compile(r"\x1b\[(?:\d;)*3\dm")
    assert colours.search(coloured.getvalue())
    assert not colours.search(plain.getvalue())


def test_a_notebook_shows_it() -> None:
    bundle = results_table(a_run(), CPU)._repr_mimebundle_([], [])  # type: ignore[attr-defined]
    assert "3.84x" in bundle["text/html"]


def test_rows_stand_in_the_same_order_in_every_group() -> None:
    """The store has cells in the order in which they ended: what is only checked ends first."""
    back = {"direction": Direction.BACKWARD}
    cells = [
        failed("triton", Status.CHECKED, "", **back),
        failed("triton", Status.CHECKED, ""),
        failed("eager", Status.ERROR, "ValueError: x"),
        cell("compile", comparison=compared(1.5)),
        cell("compile", comparison=compared(1.5), **back),
        cell("eager", **back),
    ]
    lines = [line.split() for line in shown(cells).splitlines()]
    names = [word for line in lines for word in line[:2] if word in ("eager", "compile", "triton")]
    assert names == ["eager", "compile", "triton"] * 2


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_reason_that_its_row_cuts_stands_below(width: int) -> None:
    reason = "RuntimeError: boom at import"
    text = shown([failed("eager", Status.ERROR, reason), failed("compile", Status.ERROR, reason)], width)
    assert text.count(f"[1] {reason}") == 1
    rows = [line for line in text.splitlines() if "error: " in line]
    assert len(rows) == 2
    assert all(row.endswith("[1]") for row in rows)


def test_a_reason_that_its_row_has_whole_is_not_told_twice() -> None:
    hinted = failed("short", Status.ERROR, "p=2 is no p\n  hint: a number from 0 to 1, for example --option p=0.1")
    assert shown([*a_run(), hinted]).count("p=2 is no p") == 1
    assert shown([*a_run(), failed("short", Status.ERROR, "ValueError: p")]).count("ValueError: p") == 1


def test_a_reason_too_long_for_its_row_stands_below() -> None:
    reason = f"RuntimeError: {'very ' * 20}long\n  File x.py"
    lines = shown([failed("compile", Status.ERROR, reason)], 100).splitlines()
    (row,) = [line for line in lines if "compile" in line]
    assert row.rstrip().endswith("[1]")
    assert "…" in row
    assert f"RuntimeError: {'very ' * 20}long" in " ".join(line.strip() for line in lines)

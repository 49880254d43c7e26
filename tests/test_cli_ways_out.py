"""What the command line says when it is called wrongly, and whether that shows the way out."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from fuselab.capture.chain import Chain, ChainGraph, ChainKernel, ChainLine
from fuselab.cli import app, main
from fuselab.experiment import load_registry
from fuselab.records import Artifact, Direction, Environment, Kernel, RunMetadata, RunStatus, Stage
from fuselab.report.catalogue import catalogue_view
from fuselab.store import create_run
from fuselab.targets import TARGETS

NAME = "cpp_fused_silu_0"


@pytest.fixture
def captured_run(tmp_path: Path) -> Path:
    """A run whose forward and backward have one kernel each of one name; the assembly was saved, the PTX was not."""
    kernels, artifacts = [], []
    for direction in Direction:
        place: dict[str, Any] = {"variant": "compile", "workload": "w", "direction": direction}
        kernel_id = f"compile/w/{direction.value}/{NAME}"
        source, assembly = f"kernels/{kernel_id}/kernel.cpp", f"kernels/{kernel_id}/assembly"
        kernels.append(
            Kernel(
                kernel_id=kernel_id, name=NAME, backend="cpp", file_path=source, size_bytes=1, created_at="", **place
            )
        )
        artifacts += [
            Artifact(stage=stage, kernel_id=kernel_id, path=path, absent="" if path else "CPU target", **place)
            for stage, path in ((Stage.CPP, source), (Stage.ASSEMBLY, assembly), (Stage.PTX, None))
        ]
    metadata = RunMetadata(
        id="",
        experiment="silu",
        description="SiLU",
        status=RunStatus.RUNNING,
        created_at="",
        kernels=kernels,
        artifacts=artifacts,
    )
    run = create_run(tmp_path / "runs", metadata, Environment(device="CPU test", device_type="cpu"))
    run.finish(RunStatus.COMPLETE, {})
    for kernel in kernels:
        folder = run.path / "kernels" / kernel.kernel_id
        folder.mkdir(parents=True)
        (folder / "kernel.cpp").write_text("auto first = x;\nauto second = first;\n")
        (folder / "assembly").write_text("vmovups\n")
        lines = [ChainLine(line=n, kind="compute", nodes=[]) for n in (1, 2)]
        linked = ChainKernel(kernel_id=kernel.kernel_id, name=NAME, backend="cpp", lines=lines)
        chain = Chain(direction=kernel.direction.value, graphs=[ChainGraph(number=0, kernels=[linked])])
        graphs = run.path / "graphs" / "compile" / "w" / kernel.direction.value
        graphs.mkdir(parents=True)
        (graphs / "chain.json").write_bytes(msgspec.json.encode(chain))
    return run.path


def test_without_a_command_the_help_is_all_that_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    said = capfd.readouterr()
    assert "Commands" in said.out + said.err
    assert "error:" not in said.err


@pytest.mark.parametrize("command", [command.callback for command in app.registered_commands])
def test_help_has_its_paragraphs_in_one_piece(command: object, capfd: pytest.CaptureFixture[str]) -> None:
    """A line that ended in the docstring ended in the help as well, wherever the terminal's own ended."""
    (registered,) = (one for one in app.registered_commands if one.callback is command)
    assert registered.help
    assert "\n" not in registered.help.replace("\n\n", "")


def test_a_stage_without_its_kernel_is_refused(captured_run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(captured_run), "--stage", "ptx"]) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert "--kernel" in said.err


def test_a_stage_that_is_absent_names_those_that_are_there(
    captured_run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(captured_run), "--kernel", NAME, "--stage", "ptx"]) == 2
    said = " ".join(capfd.readouterr().err.split())
    assert "has no ptx: CPU target" in said
    assert "hint: it has cpp, assembly" in said


def test_a_line_of_the_stage_that_is_the_source(captured_run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(captured_run), "--kernel", NAME, "--line", "2"]) == 0
    expected = capfd.readouterr().out
    assert main(["show", str(captured_run), "--kernel", NAME, "--stage", "cpp", "--line", "2"]) == 0
    assert capfd.readouterr().out == expected
    assert main(["show", str(captured_run), "--kernel", NAME, "--stage", "assembly", "--line", "1"]) == 2
    assert "the lines of assembly are not mapped" in capfd.readouterr().err


def test_a_name_of_several_kernels_says_which_is_shown(captured_run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(captured_run), "--kernel", NAME]) == 0
    said = capfd.readouterr()
    assert f"// compile/w/forward/{NAME}" in said.out
    assert f"the other: compile/w/backward/{NAME}" in " ".join(said.err.split())
    assert main(["show", str(captured_run), "--kernel", f"compile/w/backward/{NAME}"]) == 0
    said = capfd.readouterr()
    assert f"// compile/w/backward/{NAME}" in said.out
    assert said.err == ""


@pytest.mark.parametrize("command", ["run", "inspect", "diagnose"])
def test_a_process_needs_some_time(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([command, "rms_norm", "--deadline", "0"]) == 2
    assert "--deadline" in capfd.readouterr().err


@pytest.mark.parametrize("words", [["--jobs", "0"], ["--deadline", "0"], ["--budget", "-1"]])
def test_what_no_run_can_be_carried_out_with_is_refused(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "rms_norm", *words]) == 2
    assert words[0] in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_commands_that_are_named_find_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FUSELAB_OUT", raising=False)
    assert main(["list-runs", "--out", "my runs"]) == 0
    assert "fuselab run --out 'my runs'" in capfd.readouterr().out
    environment = Environment(device="CPU test", device_type="cpu")
    metadata = RunMetadata(id="", experiment="silu", description="", status=RunStatus.RUNNING, created_at="")
    run = create_run(tmp_path / "my runs", metadata, environment)
    run.finish(RunStatus.INTERRUPTED, {})
    assert main(["list-runs", "--out", "my runs"]) == 0
    expected = f"  fuselab run --resume silu/{run.path.name} --out 'my runs'"
    assert expected in capfd.readouterr().out.splitlines()
    for elsewhere in ("elsewhere", "my runs"):
        monkeypatch.setenv("FUSELAB_OUT", elsewhere)
        assert main(["list-runs", *(["--out", "my runs"] if elsewhere == "elsewhere" else [])]) == 0
        assert ("--out" in capfd.readouterr().out) is (elsewhere == "elsewhere")


def test_an_empty_patch_is_explained(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def double(x):\n    return x * 2\n")
    assert main(["diagnose", f"{file}:double", "--arg", "x=f32[8]", "--calls", "1", "--patch", "--device", "cpu"]) == 0
    said = capfd.readouterr()
    assert said.out == ""
    assert "no edit was proved" in said.err


def in_a_shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-c", line.replace("fuselab", f"{sys.executable} -m fuselab")],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
        check=False,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("options", ["", "--json"])
def test_output_onto_a_full_disk_is_named(options: str) -> None:
    ended = in_a_shell(f"fuselab list {options} > /dev/full")
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == ["error: the output cannot be written: No space left on device"]


@pytest.mark.parametrize("options", ["", "--json"])
def test_closed_output_is_no_error(options: str) -> None:
    ended = in_a_shell(f"fuselab list {options} >&-")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_locale_without_the_signs_gets_others(captured_run: Path) -> None:
    ended = in_a_shell(f"fuselab show {captured_run}", PYTHONIOENCODING="ascii")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "silu/" in ended.stdout


@pytest.mark.parametrize("width", [72, 80, 120])
def test_names_of_variants_are_not_cut_in_two(width: int) -> None:
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(catalogue_view(load_registry(), TARGETS, width))
    text = console.export_text()
    assert "compile-max-autotune," in text
    assert "options" in text

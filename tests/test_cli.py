"""The command line: exit codes, what goes where, the nearest match, and what must not import torch."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import typer

from fuselab.cli import main
from fuselab.cli.run import _judge
from fuselab.records import Status
from fuselab.runner import Outcome


def fuselab(*arguments, cwd=None, env=None, timeout=280):
    return subprocess.run(
        [sys.executable, "-m", "fuselab", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "120", **(env or {})},
        timeout=timeout,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["run", "rmsnorm"], "did you mean 'rms_norm'"),
        (["run", "rms_norm", "--variant", "tritn"], "did you mean 'triton'"),
        (["run", "rms_norm", "--dtype", "bf61"], "bf16"),
        (["run", "rms_norm", "--shape", "4096x"], "4096x"),
        (["run", "softmax_dropout", "--option", "p=nan"], "softmax_dropout has no p=nan"),
        (["run", "rms_norm", "--preset", "fast"], "presets: full, quick, smoke"),
        (["run", "rms_norm", "--device", "gpu"], "cuda"),
        (["run", "nowhere.py:f"], "nowhere.py"),
        (["run", "rms_norm", "--arg", "x=f32[2]"], "--arg describes the arguments of your own function"),
        (["show", "nothing"], "nothing"),
        (["run", "rms_norm", "--resume", "latest"], "--resume goes on with what the run was doing"),
        (["run", "--sede", "3"], "--seed"),
        (["rum"], "run"),
    ],
)
def test_bad_words_exit_2_and_say_what_is_allowed(arguments, text, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert text in " ".join(captured.err.split())
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["run", "--help"], ["list"], ["list", "--json"], ["list-runs"], ["--version"]],
)
def test_torch_is_not_imported_by(arguments, tmp_path):
    code = (
        "import sys\nfrom fuselab.cli import main\ncode = main(sys.argv[1:])\n"
        "loaded = {'torch', 'triton'} & set(sys.modules)\nassert code == 0, code\nassert not loaded, loaded\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_import_fuselab_imports_no_torch_and_is_quick():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import fuselab"], capture_output=True, text=True, check=True
    )
    modules = [line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if "|" in line]
    assert "fuselab" in modules
    assert not [m for m in modules if m.split(".")[0] in ("torch", "triton", "numpy")]


def test_every_command_and_option_has_help():
    import typer

    from fuselab.cli import app

    command = typer.main.get_command(app)
    for name, sub in command.commands.items():
        assert sub.help, name
        for parameter in sub.params:
            assert getattr(parameter, "help", None) or parameter.name == "help", f"{name} {parameter.name}"


def test_list_as_json_has_experiments_and_targets(capfd):
    assert main(["list", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert [e["name"] for e in document["experiments"]] == ["layer_norm_gelu", "softmax_dropout", "rms_norm", "silu"]
    for experiment in document["experiments"]:
        names = {v["name"] for v in experiment["variants"]}
        assert {"eager", "compile", "compile-max-autotune", "triton", "liger"} <= names
        assert all(experiment["presets"][p][d] for p in ("smoke", "quick", "full") for d in ("cpu", "cuda"))
    assert "h200" in {t["name"] for t in document["targets"]}


def test_settings_come_from_the_project_then_the_environment_then_the_command_line(tmp_path, monkeypatch, capfd):
    (tmp_path / "pyproject.toml").write_text('[tool.fuselab]\npreset = "from-project"\n')
    monkeypatch.chdir(tmp_path)
    for changes, arguments, expected in [
        ({}, [], "from-project"),
        ({"FUSELAB_PRESET": "from-environment"}, [], "from-environment"),
        ({"FUSELAB_PRESET": "from-environment"}, ["--preset", "from-line"], "from-line"),
    ]:
        with monkeypatch.context() as patch:
            for name, value in changes.items():
                patch.setenv(name, value)
            assert main(["run", *arguments]) == 2
        assert f"unknown preset {expected!r}" in capfd.readouterr().err


def test_a_closed_pipe_ends_quietly(tmp_path):
    command = f"{sys.executable} -m fuselab list --json | head -c 10"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("passed", "code"), [(True, 0), (None, 0), (False, 1)])
def test_calibrate_prints_every_bar_and_exits_1_if_one_fails(passed, code, monkeypatch, capfd):
    from fuselab.measure import calibrate as room

    bar = room.Bar("A/A pairs called different, raw", "2.9 to 7.1%", 0.06, passed, "6 of 100")
    asked = []

    def stand_in(device_type, pairs, **settings):
        asked.append((device_type, pairs, settings["repeats"]))
        return room.Calibration(device_type, [bar], 1.5)

    monkeypatch.setattr(room, "calibrate", stand_in)
    assert main(["calibrate", "--device", "cpu", "--pairs", "8", "--repeats", "0", "--json"]) == code
    document = json.loads(capfd.readouterr().out)
    assert document["passed"] is (passed is not False)
    assert document["bars"] == [
        {"name": bar.name, "target": bar.target, "value": 0.06, "passed": passed, "detail": "6 of 100"}
    ]
    assert document["environment"]["device_type"] == "cpu"
    assert main(["calibrate", "--device", "cpu"]) == code
    shown = " ".join(capfd.readouterr().out.split())
    assert {True: "holds", None: "not measured", False: "fails"}[passed] in shown
    assert "2.9 to 7.1%" in shown
    assert asked == [("cpu", 8, 0), ("cpu", 100, 5)]


@pytest.mark.slow
def test_run_as_json_holds_eager_and_compile_both_directions(tmp_path):
    done = fuselab(
        "run", "rms_norm", "--shape", "64x256", "--dtype", "f32", "--device", "cpu", "--json", "--budget", "0.5",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    (run,) = document["runs"]
    cells = {(m["variant"], m["direction"]): m for m in run["measurements"]}
    for variant in ("eager", "compile"):
        for direction in ("forward", "backward"):
            cell = cells[variant, direction]
            assert cell["status"] == "ok"
            assert cell["correct"] is True
            rounds = [s["round"] for s in cell["samples"]]
            assert rounds == sorted(set(rounds))
            assert len(rounds) >= 5
            assert all(s["duration_ns"] > 0 for s in cell["samples"])
    for direction in ("forward", "backward"):
        assert cells["triton", direction]["status"] == "checked"
        assert cells["triton", direction]["correct"] is True
        assert cells["triton", direction]["samples"] == []
        assert cells["compile-max-autotune", direction]["status"] == "unavailable"
        assert cells["compile-max-autotune", direction]["reason"]
    path = tmp_path / "runs" / run["metadata"]["id"]
    assert run["metadata"]["kernels"]
    for kernel in run["metadata"]["kernels"]:
        file = path / kernel["file_path"]
        assert file.stat().st_size == kernel["size_bytes"] > 0
        assert kernel["operations"]
        assert all(operation.startswith("aten.") for operation in kernel["operations"])
    assert not (path / "caches").exists()

    shown = fuselab("show", "latest", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "rms_norm" in shown.stdout
    name = run["metadata"]["kernels"][0]["name"]
    kernel = fuselab("show", "latest", "--kernel", name, cwd=tmp_path)
    assert kernel.returncode == 0, kernel.stderr
    assert name in kernel.stdout


@pytest.mark.slow
def test_a_users_failing_function_fails_its_cells_and_exits_1(tmp_path):
    (tmp_path / "own.py").write_text("def broken(x):\n    raise RuntimeError('planted: the valve is closed')\n")
    done = fuselab("run", "own.py:broken", "--arg", "x=f32[4,4]", "--device", "cpu", "--json", cwd=tmp_path)
    assert done.returncode == 1
    (run,) = json.loads(done.stdout)["runs"]
    statuses = {m["variant"]: (m["status"], m["reason"]) for m in run["measurements"]}
    assert statuses["eager"][0] == "error"
    assert "planted: the valve is closed" in statuses["eager"][1]
    assert "Traceback" not in done.stderr


def judged(capfd, *warnings, strict):
    """What `fuselab run` ends with and says, when one cell was measured and this was warned of."""
    cell = types.SimpleNamespace(
        experiment="silu", variant="compile", workload=types.SimpleNamespace(label="8x64 f32"), status=Status.OK,
        warnings=warnings,
    )  # fmt: skip
    with contextlib.suppress(typer.Exit):
        _judge([Outcome(Path(), None, None, (cell,))], strict=strict)
        return 0, capfd.readouterr().err
    return 1, " ".join(capfd.readouterr().err.split())


@pytest.mark.parametrize(
    "warning",
    [
        pytest.param("graph break at own.py:3: print", id="fault 9"),
        pytest.param("3 of 40 rounds were throttled: SW power cap", id="fault 22"),
    ],
)
def test_strict_fails_whatever_was_warned_of_and_names_it(warning, capfd):
    assert judged(capfd, warning, strict=False) == (0, "")
    assert judged(capfd, strict=True) == (0, "")
    code, said = judged(capfd, warning, warning, strict=True)
    assert code == 1
    assert f"--strict: 2 warnings, the first: silu compile 8x64 f32: {warning}" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    "signals", [[signal.SIGTERM], [signal.SIGINT], [signal.SIGINT] * 2], ids=["SIGTERM", "Ctrl-C", "Ctrl-C twice"]
)
def test_fault_25_an_interrupt_keeps_what_was_measured_and_leaves_no_process(tmp_path, signals):
    process = subprocess.Popen(
        [sys.executable, "-m", "fuselab", "run", "silu", "--preset", "smoke", "--device", "cpu"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not list(tmp_path.glob("runs/*/*/metadata.json")):
        time.sleep(0.05)
    time.sleep(2)
    for each in signals:
        process.send_signal(each)
        time.sleep(0.2)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    listing = fuselab("list-runs", "--json", cwd=tmp_path)
    (run,) = json.loads(listing.stdout)["runs"]
    assert run["status"] == "interrupted"
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True, check=False)
    assert left.stdout == ""


@pytest.mark.slow
def test_a_missing_compiler_stops_before_work_starts(tmp_path):
    done = fuselab(
        "run", "silu", "--preset", "smoke", "--device", "cpu", cwd=tmp_path, env={"CXX": str(tmp_path / "no-compiler")}
    )
    assert done.returncode == 2
    assert "compiler" in done.stderr
    assert not list(tmp_path.glob("runs/*/*"))


@pytest.mark.slow
def test_what_is_not_compiled_needs_no_compiler(tmp_path):
    """The way out that the refusal names."""
    runs = tmp_path / "my runs"
    arguments = ("--variant", "eager", "--shape", "64x64", "--dtype", "f32", "--device", "cpu", "--out", str(runs))
    done = fuselab("run", "silu", *arguments, cwd=tmp_path, env={"CXX": str(tmp_path / "no-compiler")})
    assert done.returncode == 0, done.stderr
    assert list(runs.glob("silu/*/measurements.jsonl"))

"""Acceptance: a package starts without a compilation, answers as eager does, and faster than cold; foreign, damaged and
interrupted ones are refused or leave the old one. One model is packed once for all of it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import msgspec
import pytest

from fuselab.cli import main
from fuselab.deploy import packing
from fuselab.deploy.archive import Package
from fuselab.deploy.manifest import MANIFEST, Manifest
from fuselab.deploy.process import compiler_shims

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MODEL = '''
"""A model with parameters, an option and two outputs."""
import torch


class Gate(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.LayerNorm(48)
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, x, y, scale=2.0):
        gated = self.drop(torch.nn.functional.gelu(self.norm(x)) * y * scale)
        return {"gated": gated, "mean": gated.mean(-1)}


class Gentle(Gate):
    def __init__(self):
        super().__init__()
        self.drop = torch.nn.Identity()


def fatal(x):
    if torch.compiler.is_exporting():
        import signal
        signal.raise_signal(signal.SIGSEGV)
    return x + 1


def inward(x):
    if x[0, 0].item() > 0:  # depends on the data: no graph for all inputs
        return x @ x
    return x @ x @ x
'''

ARGUMENTS = ["--arg", "x=f32[8,48]:requires_grad", "--arg", "y=f32[8,48]", "--arg", "scale=3.0"]

# The precompiled header and the trial compilations of instruction sets take longer than this suite has. They are part
# of the caches' key, so both sides have them off; the cold start is the faster for it.
VARIABLES = {
    "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
    "TORCHINDUCTOR_VEC_ISA_OK": "1",
    "OMP_NUM_THREADS": "2",
}


def fuselab(*arguments, cwd, env=None, timeout=800) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "fuselab", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **VARIABLES, "NO_COLOR": "1", "COLUMNS": "140", "FUSELAB_DEVICE": "cpu", **(env or {})},
        timeout=timeout,
        check=False,
    )


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    """A package with both directions, made by the command."""
    directory = tmp_path_factory.mktemp("packed")
    (directory / "model.py").write_text(MODEL)
    done = fuselab(
        *("pack", "model.py:Gentle", *ARGUMENTS, "-o", "gentle.pack", "--direction", "both", "--json"), cwd=directory
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    path = directory / "gentle.pack"
    assert said["size"] == path.stat().st_size
    assert said["warnings"] == []
    return path


@pytest.fixture(scope="module")
def proof(packed) -> dict:
    """The proof, made by the command: one cold start beside one of each warm way."""
    done = fuselab("verify-pack", packed, "--repeats", "1", "--direction", "forward", "--json", cwd=packed.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_the_package_says_what_it_is(packed):
    with Package(packed) as package:
        package.check_all()
        manifest = package.manifest
    assert manifest.directions == ["forward", "backward"]
    assert manifest.has_aoti
    assert manifest.artifact_counts["aot_autograd"] == 2
    assert len(manifest.libraries) >= 2
    assert manifest.model.target == "model.py:Gentle"
    assert manifest.machine.cpu_threads == 2
    assert manifest.calls[0].label == "x=f32[8,48]:requires_grad y=f32[8,48] scale=3.0"
    with zipfile.ZipFile(packed) as archive:
        assert archive.testzip() is None
        assert not any(name.endswith((".pt", ".pkl", ".pickle")) for name in archive.namelist())
    assert str(packed.parent).encode() not in msgspec.json.encode(manifest)


def test_a_warm_start_compiles_nothing_and_answers_as_eager_does(proof):
    assert proof["holds"]
    starts = {start["way"]: start for start in proof["starts"]}
    assert set(starts) == {"cold", "artifacts", "aoti"}
    for way in ("artifacts", "aoti"):
        counts = starts[way]["counts"]
        assert (counts["inductor_graphs"], counts["cpp"], counts["triton"]) == (0, 0, 0)
        assert starts[way]["equal"]
        (checks,) = starts[way]["checks"].values()
        assert [check["name"] for check in checks] == ["output['gated']", "output['mean']"]
        assert all(check["eager_rms_error"] is not None for check in checks)
    assert starts["artifacts"]["counts"]["dynamo_graphs"] == 1
    assert starts["aoti"]["counts"]["dynamo_graphs"] == 0
    # What counts has to be seen counting: a cold start compiles.
    assert starts["cold"]["counts"]["inductor_graphs"] >= 1
    assert starts["cold"]["counts"]["cpp"] >= 1


def test_it_starts_at_least_5_times_faster_than_cold(proof):
    starts = {start["way"]: start for start in proof["starts"]}
    assert starts["aoti"]["speedup"] >= 5
    assert starts["artifacts"]["speedup"] > 1
    assert "fresh process" in proof["figure"]


def test_without_any_compiler_it_starts_all_the_same_backward_too(packed):
    done = fuselab(
        *("verify-pack", packed, "--repeats", "1", "--no-cold", "--without-compiler", "--json"), cwd=packed.parent
    )
    assert done.returncode == 0, done.stdout + done.stderr
    proof = json.loads(done.stdout)
    assert proof["holds"]
    assert {(s["way"], s["direction"]) for s in proof["starts"]} == {
        ("artifacts", "forward"),
        ("artifacts", "backward"),
        ("aoti", "forward"),
    }
    for start in proof["starts"]:
        assert start["counts"]["commands"] == []
        (checks,) = start["checks"].values()
        names = {check["name"] for check in checks}
        assert ("grad x" in names) == ("grad norm.weight" in names) == (start["direction"] == "backward")


SERVER = """
import json, logging, sys
import torch
import fuselab
sys.path.insert(0, ".")
from model import Gentle
logging.basicConfig(level=logging.WARNING)
torch.manual_seed(11)  # weights that were not packed
model = Gentle().eval()
with torch.no_grad():
    model.norm.weight.normal_()
answers = {}
x, y = torch.randn(8, 48), torch.randn(8, 48)
for way in ("aoti", "artifacts"):
    served = fuselab.deploy.load(sys.argv[1], model, way=way, compare=1.0, undeclared="eager")
    got = served(y=y, x=x, scale=3.0)["gated"]
    with torch.no_grad():
        expected = model(x, y, 3.0)["gated"]
    served(x[:2], y[:2], 3.0)
    answers[way] = {
        "difference": float((got - expected).abs().max()),
        "size": float(expected.abs().max()),
        "inductor": "torch._inductor.graph" in sys.modules,
        **served.counters,
    }
print(json.dumps(answers))
"""


def test_served_from_it_with_other_weights_read_only_caches_and_no_compiler(packed, tmp_path):
    (tmp_path / "server.py").write_text(SERVER)
    log = tmp_path / "compilers.log"
    hidden = compiler_shims(tmp_path / "bin", log, refuse=True)
    # /proc can be written to by nobody, root included.
    environment = {**hidden, "TORCHINDUCTOR_CACHE_DIR": "/proc/fuselab", "TRITON_CACHE_DIR": "/proc/fuselab"}
    source = str(Path(__file__).parents[2] / "src")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "server.py"), str(packed)],
        capture_output=True,
        text=True,
        cwd=packed.parent,
        env={**os.environ, **VARIABLES, "PYTHONPATH": source, **environment},
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert log.read_text() == ""
    assert "/proc/fuselab cannot be written to; TORCHINDUCTOR_CACHE_DIR is" in done.stderr
    for answer in answers.values():
        assert answer["size"] > 1
        assert answer["difference"] < 1e-5
        expected = {"calls": 2, "undeclared": 1, "compared": 1, "mismatches": 0, "fallbacks": 0, "cold_calls": 0}
        assert {name: answer[name] for name in expected} == expected
    assert not answers["aoti"]["inductor"]


@pytest.mark.parametrize(
    ("variable", "path", "refuse", "shimmed"),
    [
        ("CXX", False, False, False),
        ("CXX", True, False, False),
        ("CXX", True, True, True),
        ("CC", False, False, False),
        ("CC", True, False, True),
    ],
)
def test_counting_compilers_leaves_the_keys_of_the_caches_alone(variable, path, refuse, shimmed, tmp_path, monkeypatch):
    """Inductor's keys hold CXX as it is spelled: with another spelling every graph is compiled again."""
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, sys.executable if path else "g++")
    log = tmp_path / "log"
    variables = compiler_shims(tmp_path / "bin", log, refuse=refuse)
    shims = tmp_path / "bin"
    assert variables.get(variable) == (str(shims / Path(sys.executable).name) if shimmed else None)
    assert variables["PATH"].split(os.pathsep)[0] == str(shims)
    if shutil.which("g++") or refuse:
        assert shutil.which("g++", path=variables["PATH"]) == str(shims / "g++")


def rewritten(packed: Path, path: Path, change) -> Path:
    """A copy of the package with another manifest."""
    with zipfile.ZipFile(packed) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename == MANIFEST:
                data = msgspec.json.encode(change(msgspec.json.decode(data, type=Manifest)))
            new.writestr(info, data)
    path.chmod(0o644)
    return path


def test_a_package_of_another_torch_is_refused_by_name(packed, tmp_path):
    foreign = rewritten(
        packed,
        tmp_path / "foreign.pack",
        lambda m: msgspec.structs.replace(m, machine=msgspec.structs.replace(m.machine, torch="1.0.0", cpu_threads=96)),
    )
    before = foreign.read_bytes()
    done = fuselab("verify-pack", foreign, cwd=tmp_path)
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert "made for another machine: torch: the package has 1.0.0, here is" in said
    assert "CPU threads: the package has 96, here is 2" in said
    assert "pip install torch==1.0.0" in said
    assert "OMP_NUM_THREADS=96" in said
    assert foreign.read_bytes() == before


def test_a_wrong_answer_fails_the_proof(packed, tmp_path):
    def other_golden(manifest: Manifest) -> Manifest:
        call = manifest.calls[0]
        step = call.forward
        # The golden answer of one output is swapped for the other's input: same bytes, another truth.
        swapped = msgspec.structs.replace(
            step,
            outputs=step.outputs | {"output['gated']": call.args[1].tensor},
            references={},
        )
        return msgspec.structs.replace(manifest, calls=[msgspec.structs.replace(call, forward=swapped)])

    wrong = rewritten(packed, tmp_path / "wrong.pack", other_golden)
    done = fuselab(
        *("verify-pack", wrong, "--no-cold", "--way", "aoti", "--direction", "forward", "--repeats", "1"), cwd=tmp_path
    )
    assert done.returncode == 1, done.stdout + done.stderr
    said = " ".join(done.stdout.split())
    assert "not proven" in said
    assert "output['gated']: root-mean-square error" in said


def test_the_artifacts_alone_need_a_compiler(packed, tmp_path):
    """What the built kernels are carried for: take them away, and torch asks for the compiler."""
    bare = rewritten(packed, tmp_path / "bare.pack", lambda m: msgspec.structs.replace(m, libraries=[]))
    settings = ("--no-cold", "--way", "artifacts", "--direction", "forward", "--repeats", "1", "--without-compiler")
    done = fuselab("verify-pack", bare, *settings, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "C++ compiler" in " ".join(done.stderr.split()) or "InvalidCxxCompiler" in done.stderr


def test_a_model_that_does_not_export_is_packed_without_that_half(packed, tmp_path):
    done = fuselab(
        *("pack", packed.parent / "model.py:inward", "--arg", "x=f32[6,6]", "-o", "inward.pack", "--json"), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    line = next(n for n, text in enumerate(MODEL.splitlines(), 1) if "depends on the data" in text)
    (warning,) = said["warnings"]
    assert "no AOTInductor package" in warning
    assert f"model.py, line {line}" in warning
    assert said["manifest"]["artifacts"]


def test_a_random_model_is_not_packed_for_training_and_the_old_package_stands(packed, tmp_path):
    path = tmp_path / "gate.pack"
    path.write_bytes(packed.read_bytes())
    before = path.read_bytes()
    model = packed.parent / "model.py:Gate"
    done = fuselab("pack", model, *ARGUMENTS, "-o", path, "--direction", "backward", cwd=tmp_path)
    assert done.returncode == 2
    assert "draws random numbers in train mode" in " ".join(done.stderr.split())
    assert path.read_bytes() == before


def test_a_kill_during_packing_leaves_the_old_package_and_no_orphans(packed, tmp_path):
    path = tmp_path / "gentle.pack"
    path.write_bytes(packed.read_bytes())
    before = path.read_bytes()
    process = subprocess.Popen(
        [sys.executable, "-m", "fuselab", "pack", f"{packed.parent}/model.py:Gentle", *ARGUMENTS, "-o", str(path)],
        env={**os.environ, **VARIABLES, "FUSELAB_DEVICE": "cpu"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    children: list[str] = []
    while not children:
        assert time.monotonic() < deadline, "the building process did not start"
        assert process.poll() is None
        time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert path.read_bytes() == before
    while any(running(child) for child in children):
        assert time.monotonic() < deadline, "the building process outlived its parent"
        time.sleep(0.05)


def running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["pack", "rms_nrom", "-o", "x.pack"], "did you mean 'rms_norm'"),
        (["pack", "rms_norm", "-o", "x.pack", "--direction", "sideways"], "unknown direction 'sideways'"),
        (["pack", "rms_norm", "-o", "x.pack", "--variant", "triton"], "triton is not compiled: nothing to pack"),
        (["pack", "rms_norm", "-o", "nowhere/x.pack"], "cannot write nowhere/x.pack"),
        (["pack", "rms_norm"], "--out"),
        (["pack", "gone.py:f", "-o", "x.pack"], "gone.py"),
        (["verify-pack", "gone.pack"], "cannot read gone.pack"),
        (["verify-pack", "model.py"], "model.py is damaged, truncated or no package"),
        (["verify-pack", "gone.pack", "--repeats", "0"], "--repeats"),
        (["verify-pack", "gone.pack", "--no-cold", "--at-least", "5"], "--at-least needs the cold starts"),
        (["verify-pack", "gone.pack", "--model", "model"], "is not FILE.py:NAME"),
    ],
)
def test_bad_words_say_what_is_allowed(arguments, text, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FUSELAB_DEVICE", "cpu")
    (tmp_path / "model.py").write_text(textwrap.dedent(MODEL))
    assert main(arguments) in (1, 2)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert text in " ".join(captured.err.split())
    assert "Traceback" not in captured.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.py"]


@pytest.mark.parametrize("own", [True, False])
def test_a_death_that_the_c_compiler_caused_says_the_way_out(own, monkeypatch):
    monkeypatch.setattr(packing.compiler, "links_own_runtime", lambda program: own)
    monkeypatch.setenv("CXX", "/opt/wrapped/g++")
    words = packing._death(f"{sys.executable} was killed by SIGSEGV")
    assert words.startswith("the process was killed by SIGSEGV")
    assert ("g++ links a C++ library of its own" in words and "set CXX to" in words) is own
    assert "CXX" not in packing._death(f"{sys.executable} ended with exit code 1")


def test_a_process_that_dies_while_exporting_costs_that_half_alone(tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    done = fuselab("pack", "model.py:fatal", "--arg", "x=f32[8]", "-o", "fatal.pack", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    (warning,) = said["warnings"]
    assert "no AOTInductor package" in warning
    assert "SIGSEGV" in warning
    assert re.search(r"\(\w+, \w+\.py, line \d+\)", warning)  # where it was when it died
    with zipfile.ZipFile(tmp_path / "fatal.pack") as archive:
        manifest = msgspec.json.decode(archive.read(MANIFEST), type=Manifest)
    assert not manifest.has_aoti
    assert manifest.artifacts

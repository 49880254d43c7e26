"""The host compilers: looked up as torch and triton do it, and judged by what they compile."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fuselab import compiler

needs_gxx = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here")


def _script(path: Path, body: str) -> str:
    """A program in Python; by way of the shell, as the interpreter's path may hold a space."""
    path.with_suffix(".py").write_text(body)
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{path}.py" "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.fixture
def no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without any compiler or package manager on PATH."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)


@needs_gxx
def test_a_working_compiler_compiles_loads_and_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    trial = compiler.try_cpp()
    assert trial.works, trial.detail
    assert "ran a toy kernel" in trial.detail
    assert "g++" in trial.detail
    assert not trial.remedy


@needs_gxx
def test_a_torch_below_a_space_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Inductor's commands quote nothing: every compilation would fail, each with a page of the compiler's words."""
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(compiler, "_torch_directory", lambda: tmp_path / "my environment" / "torch")
    trial = compiler.try_cpp()
    assert not trial.works
    assert "my environment" in trial.detail
    assert "without a space" in trial.remedy


@needs_gxx
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="judged by ELF")
@pytest.mark.parametrize(("flag", "own"), [("", False), ("-static-libstdc++", True)])
def test_a_compiler_that_links_a_c_library_of_its_own(flag: str, own: bool, tmp_path: Path) -> None:
    wrapper = tmp_path / "g++"
    wrapper.write_text(f'#!/bin/sh\nexec "{shutil.which("g++")}" {flag} "$@"\n')
    wrapper.chmod(0o755)
    assert compiler.links_own_runtime(str(wrapper)) is own


def test_a_compiler_that_does_not_compile_links_nothing(tmp_path: Path) -> None:
    assert not compiler.links_own_runtime(str(tmp_path / "none"))


@pytest.mark.usefixtures("no_compiler")
def test_no_compiler_says_what_to_install() -> None:
    for trial, package in ((compiler.try_cpp(), "g++"), (compiler.try_headers(), "gcc")):
        assert not trial.works
        assert "not on PATH" in trial.detail or "neither gcc nor clang" in trial.detail
        assert f"install {package}" in trial.remedy


@pytest.mark.parametrize(
    ("body", "detail", "remedy"),
    [
        ("raise SystemExit(1)", "does not answer to --version", "unset CXX"),
        (
            # it answers to --version and compiles nothing
            "import sys\nif '--version' in sys.argv: print('toycc 1.0')\n"
            "else: sys.exit('toycc: fatal error: no licence')",
            "toycc 1.0: does not compile the toy kernel: toycc: fatal error: no licence",
            "unset CXX",
        ),
        (
            "import sys\nif '--version' in sys.argv: print('clang version 19')\n"
            "else: sys.exit(\"fatal error: 'omp.h' file not found\")",
            "'omp.h' file not found",
            "omp",
        ),
        (
            # it says that it compiled, and wrote a file that is no library
            "import sys\nif '--version' in sys.argv: print('toycc 1.0')\n"
            "else: open(sys.argv[sys.argv.index('-o') + 1], 'w').write('nothing')",
            "cannot be loaded",
            "g++",
        ),
    ],
    ids=["dead", "does not compile", "no OpenMP", "no library"],
)
def test_a_failing_compiler_is_quoted(
    body: str, detail: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", _script(tmp_path / "toycc", body))
    trial = compiler.try_cpp()
    assert not trial.works
    assert detail in trial.detail
    assert remedy in trial.remedy


@needs_gxx
def test_a_compiler_without_the_newest_standard_works_and_is_called_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = (
        "import subprocess, sys\nif '-std=c++20' in sys.argv: sys.exit('error: unrecognized option -std=c++20')\n"
        f"sys.exit(subprocess.call([{shutil.which('g++')!r}, *sys.argv[1:]]))"
    )
    monkeypatch.setenv("CXX", _script(tmp_path / "old-g++", body))
    trial = compiler.try_cpp()
    assert trial.works
    assert trial.old
    assert "GCC 10" in trial.remedy


@needs_gxx
def test_a_compiler_that_computes_nonsense_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = (
        "import pathlib, subprocess, sys\nfor a in sys.argv:\n    if a.endswith('.cpp'):\n"
        "        p = pathlib.Path(a); p.write_text(p.read_text().replace('1.0f +', '1.001f +'))\n"
        f"sys.exit(subprocess.call([{shutil.which('g++')!r}, *sys.argv[1:]]))"
    )
    monkeypatch.setenv("CXX", _script(tmp_path / "bad-g++", body))
    trial = compiler.try_cpp()
    assert not trial.works
    assert "the toy kernel is off by" in trial.detail


def test_cxx_with_arguments_is_named_as_the_mistake_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "ccache g++")
    trial = compiler.try_cpp()
    assert not trial.works
    assert "one program" in trial.detail
    assert "without arguments" in trial.remedy


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc here")
def test_missing_python_headers_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("fuselab.compiler.sysconfig.get_paths", lambda: {"include": str(tmp_path)})
    # a compiler's default directories hold no Python.h, unless the system's headers lie right there
    trial = compiler.try_headers()
    assert not trial.works
    assert trial.detail == f"no {tmp_path}/Python.h"
    assert "python" in trial.remedy


@pytest.mark.parametrize(
    ("manager", "what", "command"),
    [
        ("apt-get", "c++", "apt-get install g++"),
        ("apt-get", "headers", f"apt-get install python{sys.version_info.major}.{sys.version_info.minor}-dev"),
        ("dnf", "c++", "dnf install gcc-c++"),
        ("apk", "c++", "apk add g++"),
        ("pacman", "c++", "pacman -S gcc"),
        ("zypper", "headers", f"zypper install python{sys.version_info.major}{sys.version_info.minor}-devel"),
        (None, "c++", "apt-get install g++"),
    ],
)
def test_the_install_command_is_the_machines_own(
    manager: str | None, what: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("PATH", str(tmp_path))
    if manager:
        _script(tmp_path / manager, "")
    assert compiler.install_command(what).removeprefix("sudo ") == command


@pytest.mark.slow
@pytest.mark.parametrize("cxx", [None, "ccache g++"])
def test_the_lookup_is_inductors_own(cxx: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Inductor would run is what is tried here: a disagreement would make doctor lie."""
    pytest.importorskip("torch")
    if cxx is None:
        monkeypatch.delenv("CXX", raising=False)
    else:
        monkeypatch.setenv("CXX", cxx)
    code = "from torch._inductor.cpp_builder import get_cpp_compiler; print(get_cpp_compiler())"
    theirs = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if compiler.version_line(compiler.cpp_program()) is None:
        assert "InvalidCxxCompiler" in theirs.stderr
    else:
        assert theirs.stdout.strip() == compiler.cpp_program()

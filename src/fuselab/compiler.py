"""The host compilers that torch and triton call, and whether they work here.

Inductor's C++ backend runs the program in ``CXX`` (else ``g++``, on macOS ``clang++``); Triton's launcher needs the C
program in ``CC`` (else ``gcc``, else ``clang``) and ``Python.h``. Both are looked up as torch and triton do it, then
put to work on a toy kernel with the flags that Inductor uses.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

import msgspec

from fuselab.errors import SetupError
from fuselab.probe import KernelFacts, ask, run

__all__ = [
    "Trial",
    "c_program",
    "cpp_program",
    "install_command",
    "is_split",
    "links_own_runtime",
    "try_cpp",
    "try_headers",
    "version_line",
]

DEADLINE_S = 60.0

TOY_KERNEL = """\
#include <cmath>
#include <omp.h>

// SiLU, parallel over elements: the shape of what Inductor generates for a CPU.
extern "C" int fuselab_toy_silu(const float* x, float* out, long count) {
    int threads = 1;
    #pragma omp parallel
    {
        #pragma omp single
        threads = omp_get_num_threads();
        #pragma omp for
        for (long i = 0; i < count; ++i) out[i] = x[i] / (1.0f + std::exp(-x[i]));
    }
    return threads;
}
"""

LOCALE = """\
#include <locale>

// Needs the C++ library for more than headers.
extern "C" bool fuselab_toy_facet(const std::locale& where) { return std::has_facet<std::ctype<char>>(where); }
"""

CPP_LIBRARIES = (b"libstdc++.so", b"libc++.so")

STANDARDS = ("c++20", "c++17")
"""Inductor asks for C++20 (from torch 2.13 at the latest), older torch for C++17."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """How a compiler did."""

    program: str
    """What was run."""
    works: bool
    """Whether the product could be loaded and gave the right numbers."""
    detail: str
    """The compiler's first line of ``--version`` and what came out, or what went wrong."""
    remedy: str = ""
    """The command that mends it; empty when it works."""
    old: bool = False
    """Whether it works, but not with the newest language standard that torch may ask for."""


_PACKAGES: dict[str, dict[str, str]] = {
    # manager: what it calls a C++ compiler, a C compiler, Python's headers, clang's OpenMP
    "apt-get": {"c++": "g++", "c": "gcc", "headers": "python{0}-dev", "openmp": "libomp-dev"},
    "dnf": {"c++": "gcc-c++", "c": "gcc", "headers": "python{0}-devel", "openmp": "libomp-devel"},
    "yum": {"c++": "gcc-c++", "c": "gcc", "headers": "python{0}-devel", "openmp": "libomp-devel"},
    "zypper": {"c++": "gcc-c++", "c": "gcc", "headers": "python{1}-devel", "openmp": "libomp-devel"},
    "apk": {"c++": "g++", "c": "gcc", "headers": "python3-dev", "openmp": "openmp-dev"},
    "pacman": {"c++": "gcc", "c": "gcc", "headers": "python", "openmp": "openmp"},
}


def install_command(what: str) -> str:
    """The command that installs ``c++``, ``c``, ``headers`` or ``openmp`` on this machine.

    Without a package manager that we know, Debian's command stands for the others.

    Example:
        >>> "g" in install_command("c++")
        True
    """
    if sys.platform == "darwin":
        return "brew install libomp" if what == "openmp" else "xcode-select --install"
    if sys.platform == "win32":
        return "install the Build Tools for Visual Studio with the C++ workload, and start from its command prompt"
    manager = next((name for name in _PACKAGES if shutil.which(name)), "apt-get")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    package = _PACKAGES[manager][what].format(version, version.replace(".", ""))
    command = {"pacman": "pacman -S", "apk": "apk add"}.get(manager, f"{manager} install")
    sudo = "sudo " if hasattr(os, "geteuid") and os.geteuid() else ""
    return f"{sudo}{command} {package}"


def cpp_program() -> str:
    """The C++ compiler that Inductor will run: the whole of ``CXX`` as one program, or the platform's default."""
    return os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")


def c_program() -> str | None:
    """The C compiler that Triton will run: ``CC``, or ``gcc``, or ``clang``; None when there is none."""
    return os.environ.get("CC") or next((name for name in ("gcc", "clang") if shutil.which(name)), None)


def version_line(program: str) -> str | None:
    """First line of ``program --version``; None when it does not run."""
    finished = run([program, "--version"], deadline_s=DEADLINE_S)
    lines = finished.output.strip().splitlines()
    return lines[0].strip() if finished.ok and lines else None


def _flags(standard: str, program: str) -> list[str]:
    # -march=native is left out: it cannot fail for a reason that a user could mend
    openmp = ["-Xclang", "-fopenmp", "-lomp"] if sys.platform == "darwin" else ["-fopenmp"]
    return [program, "-shared", "-fPIC", f"-std={standard}", "-O3", "-ffast-math", "-fno-finite-math-only", *openmp]


def try_cpp() -> Trial:
    """Compile the toy kernel with Inductor's compiler and flags, load it in a child process, compare its numbers."""
    program = cpp_program()
    version = version_line(program)
    if version is None:
        return _no_answer(program)
    torch = _torch_directory()
    if torch is not None and is_split(torch):
        detail = f"torch is in {torch}: the path has a space, where Inductor's command for the C++ compiler is split"
        return Trial(program=program, works=False, detail=detail, remedy="install in a path without a space")
    with tempfile.TemporaryDirectory(prefix="fuselab-toy-") as directory:
        source, library = Path(directory) / "toy.cpp", Path(directory) / "toy.so"
        source.write_text(TOY_KERNEL)
        for standard in STANDARDS:
            compiled = run([*_flags(standard, program), source, "-o", library], deadline_s=DEADLINE_S)
            if compiled.ok:
                return _loaded(program, version, standard, library)
    return _failed_compile(program, version, f"{compiled.errors}\n{compiled.problem}")


def is_split(path: Path) -> bool:
    """Whether a path falls apart in Inductor's command for the C++ compiler, which quotes nothing.

    Example:
        >>> is_split(Path("/home/me/my runs")), is_split(Path("/home/me/runs"))
        (True, False)
    """
    return any(character.isspace() for character in str(path))


def _torch_directory() -> Path | None:
    # Where torch's headers are, without importing it.
    found = importlib.util.find_spec("torch")
    return Path(found.origin).parent if found is not None and found.origin else None


def links_own_runtime(program: str) -> bool:
    """Whether ``program`` puts a copy of the C++ library into every library that it links, in place of sharing torch's.

    A wrapper that adds ``-static-libstdc++`` does. Two copies in one process know different locales: the loader of an
    AOTInductor package, which is built here and parses a device's name with ``std::regex``, dies of a segmentation
    fault. Judged on Linux, by the names of the libraries that the product asks for; False where it does not compile.
    """
    if not sys.platform.startswith("linux"):
        return False
    with tempfile.TemporaryDirectory(prefix="fuselab-toy-") as directory:
        source, library = Path(directory) / "locale.cpp", Path(directory) / "locale.so"
        source.write_text(LOCALE)
        compiled = run([program, "-shared", "-fPIC", source, "-o", library], deadline_s=DEADLINE_S)
        if not compiled.ok:
            return False
        product = library.read_bytes()
    return not any(name in product for name in CPP_LIBRARIES)


def _no_answer(program: str) -> Trial:
    if "CXX" not in os.environ:
        detail, remedy = f"no C++ compiler: {program} is not on PATH", install_command("c++")
    elif len(program.split()) > 1:
        detail = f"CXX={program} is not one program"
        remedy = "set CXX to one program without arguments: Inductor runs the whole of it as one"
    else:
        detail = f"CXX={program} does not answer to --version"
        remedy = f"unset CXX, or set it to a C++ compiler ({install_command('c++')})"
    return Trial(program=program, works=False, detail=detail, remedy=remedy)


def _loaded(program: str, version: str, standard: str, library: Path) -> Trial:
    """Judge the compiled toy kernel by loading it."""
    works, remedy = False, install_command("c++")
    try:
        facts = ask(KernelFacts, str(library), deadline_s=DEADLINE_S)
    except SetupError as error:
        detail = f"the toy kernel was compiled and cannot be loaded: {error.message}"
        if "failed to map segment" in error.message:
            remedy = f"set TMPDIR to a directory that is not mounted noexec, as {tempfile.gettempdir()} seems to be"
    else:
        works = facts.worst_error < 1e-4
        if not works:
            detail = f"the toy kernel is off by {facts.worst_error:.3g}: this compiler is broken"
        elif standard == STANDARDS[0]:
            detail, remedy = f"compiled and ran a toy kernel ({standard}, OpenMP, {facts.threads} threads)", ""
        else:
            detail = f"compiles {standard}, not the {STANDARDS[0]} that newer torch asks for"
            remedy += " (GCC 10 or Clang 10 at least)"
    return Trial(
        program=program,
        works=works,
        old=standard != STANDARDS[0],
        detail=f"{version}: {detail}",
        remedy=remedy,
    )


def _failed_compile(program: str, version: str, errors: str) -> Trial:
    """What to say of a compiler that answers to ``--version`` and does not compile."""
    said = next((line for line in errors.splitlines() if "error" in line.lower()), errors.strip().splitlines()[-1])
    remedy = install_command("c++")
    if any(word in errors for word in ("omp.h", "-lomp", "libomp", "fopenmp", "libgomp")):
        remedy = install_command("openmp") if "clang" in version.lower() else install_command("c++")
    elif "CXX" in os.environ:
        remedy = f"unset CXX, or set it to a C++ compiler that works ({remedy})"
    return Trial(
        program=program,
        works=False,
        detail=f"{version}: does not compile the toy kernel: {said.strip()}",
        remedy=remedy,
    )


def try_headers() -> Trial:
    """Whether the C compiler that Triton calls compiles against ``Python.h``, as its launcher has to."""
    program = c_program()
    if program is None:
        return Trial(
            program="cc",
            works=False,
            detail="no C compiler: neither gcc nor clang is on PATH",
            remedy=install_command("c"),
        )
    include = sysconfig.get_paths()["include"]
    with tempfile.TemporaryDirectory(prefix="fuselab-toy-") as directory:
        source = Path(directory) / "toy.c"
        source.write_text("#include <Python.h>\nint main(void) { return PY_MAJOR_VERSION - 3; }\n")
        finished = run([program, "-fsyntax-only", f"-I{include}", source], deadline_s=DEADLINE_S)
    if finished.ok:
        return Trial(program=program, works=True, detail=f"{program} compiles against {include}/Python.h")
    if "Python.h" in finished.errors:
        return Trial(program=program, works=False, detail=f"no {include}/Python.h", remedy=install_command("headers"))
    said = (finished.errors.strip() or finished.problem).splitlines()[0]
    cc = f"unset CC, or set it to a C compiler ({install_command('c')})"
    return Trial(
        program=program,
        works=False,
        detail=f"{program} does not compile a toy program: {said}",
        remedy=cc if "CC" in os.environ else install_command("c"),
    )

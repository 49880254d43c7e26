"""C++ kernels and the libraries they became."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from fuselab.capture.assembly import Libraries, disassemble, functions_of

SOURCE = (
    '\n#include <cmath>\nextern "C" void kernel(const float* in, float* out)\n{\n    out[0] = std::exp(in[0]);\n}\n'
)


def test_a_library_is_found_by_the_text_it_was_compiled_from(tmp_path):
    folder = tmp_path / "ab"
    folder.mkdir()
    for name, text in [("mine", SOURCE + "// bindings\n"), ("other", SOURCE.replace("exp", "log")), ("bare", SOURCE)]:
        (folder / f"{name}.main.cpp").write_text(text)
        if name != "bare":  # was never compiled
            (folder / f"{name}.main.so").write_bytes(b"")
    libraries = Libraries(tmp_path)
    assert libraries.find(SOURCE).source.name == "mine.main.cpp"
    assert libraries.find(SOURCE.replace("exp", "log")).binary.name == "other.main.so"
    assert libraries.find(SOURCE.replace("exp", "sin")) is None
    assert Libraries(tmp_path / "absent").find(SOURCE) is None


def test_functions_without_a_line_of_the_kernel_are_left_out():
    printed = ["1 <_init>:", " 1:\tret", "", "2 <f>:", "g():", "/u/v.h:3", "inlined by /c/k.cpp:4 (f)", " 2:\tret"]
    assert functions_of(printed, "/c/k.cpp", 9) == "2 <f>:\n/u/v.h:3\ninlined by /c/k.cpp:4 (f)\n 2:\tret\n"
    assert functions_of(printed, "/c/k.cpp", 3) == ""  # bindings below the kernel


@pytest.mark.slow
def test_without_a_line_table_the_reason_says_so(tmp_path, monkeypatch):
    if shutil.which("g++") is None or shutil.which("objdump") is None:
        pytest.skip("needs g++ and objdump")
    folder = tmp_path / "ab"
    folder.mkdir()
    path = folder / "k.cpp"
    path.write_text(SOURCE)
    for flags in ([], ["-g1"]):
        command = ["g++", "-shared", "-fPIC", "-O2", *flags, str(path), "-o", str(path.with_suffix(".so"))]
        subprocess.run(command, check=True)
        library = Libraries(tmp_path).find(SOURCE)
        if flags:
            assert f"{path}:5" in disassemble(library, 6)
        else:
            with pytest.raises(RuntimeError, match="without a line table"):
                disassemble(library, 6)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match="binutils"):
        disassemble(library, 6)


def test_a_line_table_changes_no_instruction(tmp_path):
    if shutil.which("g++") is None or shutil.which("objdump") is None:
        pytest.skip("needs g++ and objdump")
    path = tmp_path / "k.cpp"
    path.write_text(SOURCE)
    texts = []
    for flags in ([], ["-g1"], ["-g"]):
        binary = tmp_path / "k.o"
        subprocess.run(["g++", "-c", "-O3", *flags, str(path), "-o", str(binary)], check=True)
        done = subprocess.run(["objdump", "-d", str(binary)], check=True, capture_output=True, text=True)
        texts.append(done.stdout)
    assert texts[0] == texts[1] == texts[2]

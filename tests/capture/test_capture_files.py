"""Names of files, and files written whole."""

from __future__ import annotations

import re

import pytest

from fuselab.capture.files import Files, safe_name
from fuselab.records import Direction, Stage

HOSTILE = [
    "a/b",
    "..",
    "../../etc/passwd",
    "nul\x00byte",
    "K" * 300,
    "",
    "-rf",
    ".hidden",
    "é",
    "a b",
    "a..b",
    "\ud800",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_becomes_a_hash(name):
    assert re.fullmatch(r"kernel-[0-9a-f]{16}", safe_name(name))


@pytest.mark.parametrize("name", ["triton_poi_fused_add_0", "extern_kernels.mm", "cpp_fused_0.g1", "_k"])
def test_an_ordinary_name_stays(name):
    assert safe_name(name) == name


def test_hostile_names_stay_below_and_apart(tmp_path):
    files = Files(tmp_path, "compile", "w")
    names = [*HOSTILE, "Kernel", "kernel", "KERNEL", "a/b"]
    folders = [files.kernel_directory(Direction.FORWARD, name, 0) for name in names]
    assert len({folder.lower() for folder in folders}) == len(folders)
    for folder in folders:
        path = files.write(f"kernels/forward/{folder}/kernel.py", "x", Direction.FORWARD, Stage.TRITON, "id")
        assert path.resolve().is_relative_to(tmp_path.resolve())


def test_the_same_stage_again_gets_a_name_of_its_own(tmp_path):
    files = Files(tmp_path, "compile", "w")
    for number in (0, 1, 1):
        files.graph_stage(Direction.BACKWARD, Stage.FUSION, number, "{}")
    assert [a.path for a in files.artifacts] == [
        "graphs/backward/fusion.json",
        "graphs/backward/fusion.1.json",
        "graphs/backward/fusion.1_2.json",
    ]
    assert [a.size_bytes for a in files.artifacts] == [2, 2, 2]
    assert not list(tmp_path.rglob("*.tmp"))


def test_text_that_utf8_cannot_hold_is_escaped(tmp_path):
    path = tmp_path / "x"
    assert Files(tmp_path, "v", "w").put(path, "a\ud800") == len("a\\ud800")

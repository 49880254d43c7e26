"""Matching what Triton left in its cache to kernels: on records made by hand, and on kernels compiled for an H200."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fuselab.capture.output_code import parse_output_code
from fuselab.capture.triton_cache import TritonBinary, choose, chosen_hashes, read_cache
from fuselab.records import Stage


def binary(hash_: str, source: str, name: str = "k") -> TritonBinary:
    return TritonBinary(hash_, name, source, {Stage.TTIR: Path("x")})


MINE = [binary("A", "/c/ab/key.py"), binary("B", "/c/ab/key.py")]
FOREIGN = binary("C", "/c/cd/other.py")


@pytest.mark.parametrize(
    ("binaries", "launcher", "best", "chosen", "others", "reason"),
    [
        ([*MINE, FOREIGN], "B", [], "B", ["A"], "launcher"),
        ([*MINE, FOREIGN], None, ["A"], "A", ["B"], "autotuning record"),
        ([*MINE, FOREIGN], "B", ["A"], "B", ["A"], "launcher"),
        ([*MINE, FOREIGN], "gone", ["A", "B"], "A", ["B"], "first of several"),
        ([MINE[0], FOREIGN], None, ["C"], "A", [], "only configuration"),
        ([FOREIGN], None, ["C"], None, [], "nothing in Triton's cache"),
        ([], None, [], None, [], "nothing in Triton's cache"),
        ([binary("D", "", "k")], "D", [], "D", [], "launcher"),
    ],
)
def test_choose(binaries, launcher, best, chosen, others, reason):
    found, rest, said = choose(binaries, "/c/ab/key.py", "k", launcher, best)
    assert (found.hash if found else None) == chosen
    assert [b.hash for b in rest] == others
    assert said.startswith(reason)


def test_a_namesake_from_another_source_is_never_taken():
    namesake = binary("C", "/c/cd/other.py", "triton_poi_fused_0")
    found, _, _ = choose([namesake], "/c/ab/key.py", "triton_poi_fused_0", None, [])
    assert found is None


def test_half_written_and_foreign_files_are_left_out(tmp_path):
    for folder, name, text in [
        ("A", "k.json", '{"hash": "x", "name"'),
        ("B", "k.json", "[]"),
        ("C", "k.json", '{"no": "hash"}'),
        ("D", "k.json", '{"hash": "d", "name": "k"}'),  # metadata without a single stage
        ("E", "__grp__k.json", '{"child_paths": {}}'),
    ]:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(text)
    assert read_cache([tmp_path, tmp_path / "absent"]) == []


def test_choices_of_autotuning_are_read(tmp_path):
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / "one.best_config").write_text(json.dumps({"XBLOCK": 1, "triton_cache_hash": "H"}))
    (tmp_path / "ab" / "two.best_config").write_bytes(b"\xff broken")
    (tmp_path / "ab" / "old.best_config").write_text(json.dumps({"XBLOCK": 1}))
    assert chosen_hashes(tmp_path) == {"H"}


@pytest.mark.slow
def test_every_stage_of_every_recorded_kernel_is_found(hopper_caches, recorded):
    binaries = read_cache([hopper_caches / "triton"])
    best = chosen_hashes(hopper_caches / "inductor")
    kernels = parse_output_code(recorded("layer_norm_gelu_backward.h200")).kernels
    assert len(binaries) == len(kernels) + 1  # the first was compiled twice
    for index, kernel in enumerate(kernels):
        chosen, others, reason = choose(binaries, kernel.source_path, kernel.name, None, best)
        assert chosen is not None
        assert chosen.name == kernel.name
        assert set(chosen.files) == {Stage.TTIR, Stage.TTGIR, Stage.LLIR, Stage.PTX, Stage.CUBIN}
        assert reason == ("autotuning record" if index == 0 else "only configuration")
        assert len(others) == (index == 0)
        assert all(path.stat().st_size > 0 for path in chosen.files.values())
    assert choose(binaries, kernels[0].source_path, kernels[0].name, None, best)[0].metadata["num_warps"] == 2

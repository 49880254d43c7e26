"""Two kernels of one name, in a forward and in its backward, each keep their own configurations."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fuselab.offline.kernels import KernelWatch, candidates_of


def tuned(block: int, digest: str) -> Any:
    config = SimpleNamespace(kwargs={"XBLOCK": block}, num_warps=4, num_stages=1)
    launcher = SimpleNamespace(config=config, n_regs=block // 32, n_spills=0, shared=0, cache_hash=digest)
    return SimpleNamespace(launchers=[launcher], compile_results=[SimpleNamespace(config=config)])


def test_a_compilation_tells_kernels_of_one_name_apart() -> None:
    watch = KernelWatch()
    watch.compiled("triton_poi_fused_add_0", tuned(1024, "FORWARD"))
    watch.compiled("triton_poi_fused_add_0", tuned(512, "BACKWARD"))
    for digest, block in (("FORWARD", 1024), ("BACKWARD", 512)):
        (found,) = candidates_of(watch.candidates, "triton_poi_fused_add_0", {"triton_hash": digest})
        assert (found.config, found.registers, found.first) == ({"XBLOCK": block}, block // 32, True)
    (last,) = candidates_of(watch.candidates, "triton_poi_fused_add_0", {})
    assert last.config == {"XBLOCK": 512}
    assert candidates_of(watch.candidates, "another", {"triton_hash": "FORWARD"}) == []

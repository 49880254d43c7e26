"""A comparison to be shown: cells of every kind, a kernel with a diff, and any text in every field that holds words."""

from __future__ import annotations

import comparison_factory as factory
import msgspec
import numpy as np

from fuselab.comparison.judging import compare_cells
from fuselab.comparison.records import (
    EnvironmentDifference,
    KernelChange,
    KernelMatch,
    KernelSide,
    RunsComparison,
    SideComparison,
    StageDifference,
)
from fuselab.records import Direction, Stage, Status


def kernel(text="", match=KernelMatch.NAME, name="triton_poi_fused_silu_0", diff="@@ -1 +1 @@\n-a\n+b", **facts):
    side = KernelSide(
        kernel_id="k",
        name=name,
        backend="triton",
        file_path="kernels/k",
        operations=["aten.silu" + text],
        facts={"registers": 32, **facts},
        instructions={"all": 100.0},
    )
    new = msgspec.structs.replace(side, facts={"registers": 40}, instructions={"all": 90.0})
    stages = [
        StageDifference(stage=Stage.TRITON, added=1, removed=1, text=diff, note=text),
        StageDifference(stage=Stage.PTX),
    ]
    return KernelChange(workload="64x256 f32" + text, direction=Direction.FORWARD, match=match, base=side, new=new,
                        changed=["registers", "all"], stages=stages)  # fmt: skip


def comparison(text="", kernels=None):
    """A comparison with every judgement that has a figure; ``text`` in every field that holds words."""
    rng = np.random.default_rng(1)
    settings = {"noise": 0.001, "drift": 0.001}
    base = factory.group({"eager": 10, "compile": 8, "triton": 7, "other": 7}, rng, **settings)
    new = factory.group({"eager": 10.3, "compile": 8.5, "triton": 5, "other": 7}, rng, **settings)
    new = factory.changed(new, "other", status=Status.ERROR, reason="boom", samples=[], median_ns=None)
    sides = factory.side("A", base), factory.side("B", new)
    cells = compare_cells(*sides, threshold=0.02, margin=0.01, same_software=True)
    cells = [
        msgspec.structs.replace(
            c,
            workload=c.workload + text,
            reason=c.reason + text,
            base=msgspec.structs.replace(c.base, variant=c.base.variant + text),
            new=msgspec.structs.replace(c.new, variant=c.new.variant + text),
        )
        for c in cells
    ]
    one = SideComparison(
        base="A",
        new="B",
        cells=cells,
        kernels=[kernel(text)] if kernels is None else kernels,
        headlines=["headline" + text],
        caveats=["caveat" + text],
    )
    runs = [
        msgspec.structs.replace(
            s.record(), device=s.environment.device + text, notes=["note" + text], id=s.metadata.id + text
        )
        for s in sides
    ]
    around = [EnvironmentDifference(group="versions", name="torch" + text, values=["1" + text, "2"], decisive=True)]
    return RunsComparison(runs=runs, environment=around, comparisons=[one], fail_over=0.02, threshold=0.02, margin=0.01)

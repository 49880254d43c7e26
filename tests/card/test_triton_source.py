"""What a Triton kernel's source says of its launch: parameters, sizes, device and grid."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuselab.capture.output_code import parse_output_code
from fuselab.card.triton_source import argument_names, launch_grid, read_triton_source

RECORDED = Path(__file__).parents[1] / "capture" / "recorded"


@pytest.mark.parametrize(
    ("meta", "config", "sizes", "expected"),
    [
        ({"grid_type": "Grid1D"}, {"XBLOCK": 128}, {"xnumel": 129}, (2, 1, 1)),
        ({"grid_type": "Grid2D"}, {"XBLOCK": 2, "YBLOCK": 4}, {"xnumel": 6, "ynumel": 9}, (3, 3, 1)),
        ({"grid_type": "Grid2DWithYZOverflow"}, {"YBLOCK": 1}, {"xnumel": 6, "ynumel": 70000}, (6, 35000, 2)),
        ({"grid_type": "MixOrderReductionGrid"}, {"RSPLIT_SIZE": 16}, {"xnumel": 100}, (7, 1, 1)),
        ({"grid_type": "CooperativeReductionGrid"}, {"RSPLIT": 8, "XBLOCK": 2}, {"xnumel": 5}, (8, 3, 1)),
        ({"grid_type": "FixedGrid", "fixed_grid": ["n // 2", "max(n, 3)", 1]}, {"A": 1}, {"n": 4}, (2, 4, 1)),
        (
            {
                "grid_type": "PrecomputedGrid",
                "precomputed_grids": [{"config": {"B": 2}, "python": ["-(n // -2)", "1", "1"]}],
            },
            {"B": 2},
            {"n": 7},
            (4, 1, 1),
        ),
        ({"grid_type": "Grid1D"}, {}, {"xnumel": 1}, "the block sizes are not known"),
        ({"grid_type": "NewGrid"}, {"XBLOCK": 1}, {"xnumel": 1}, "this kind of grid is not known here: NewGrid"),
        ({"grid_type": "Grid1D"}, {"XBLOCK": 1}, {}, "the grid (Grid1D) needs 'xnumel'"),
        (
            {"grid_type": "FixedGrid", "fixed_grid": ["__import__('os').getpid()", 1, 1]},
            {"A": 1},
            {},
            "the grid (FixedGrid)",
        ),
    ],
)
def test_grids(meta, config, sizes, expected):
    found = launch_grid(meta, config, sizes)
    assert found.startswith(expected) if isinstance(expected, str) else found == expected


@pytest.mark.slow
def test_grids_are_those_of_inductor_itself():
    heuristics = pytest.importorskip("torch._inductor.runtime.triton_heuristics")
    for meta, config, sizes in (
        ({"grid_type": "Grid1D"}, {"XBLOCK": 64}, {"xnumel": 1000}),
        ({"grid_type": "Grid2D"}, {"XBLOCK": 64, "YBLOCK": 8}, {"xnumel": 1000, "ynumel": 77}),
        ({"grid_type": "Grid2DWithYZOverflow"}, {"XBLOCK": 64, "YBLOCK": 1}, {"xnumel": 9, "ynumel": 200000}),
        ({"grid_type": "CooperativeReductionGrid"}, {"XBLOCK": 4, "RSPLIT": 16}, {"xnumel": 30}),
    ):
        theirs = heuristics.GridExpr.from_meta(meta, config).eval_slow(dict(sizes))
        assert launch_grid(meta, config, sizes) == tuple(theirs)


def test_triton_sources_tell_parameters_sizes_and_device():
    kernel = parse_output_code((RECORDED / "layer_norm_gelu_forward.h200.txt").read_text()).kernels[0]
    source = read_triton_source(kernel.source)
    assert source.function == kernel.name
    assert source.sizes == {"xnumel": 512, "r0_numel": 1024}
    assert (source.device["cc"], source.device["multi_processor_count"]) == (90, 132)
    assert source.inductor_meta["grid_type"] == "Grid1D"
    assert argument_names(source, 8)[-2:] == ("xnumel", "r0_numel")
    with pytest.raises(ValueError, match="no function"):
        read_triton_source("x = 1")

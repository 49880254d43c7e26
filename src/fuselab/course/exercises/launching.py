"""What stands around a kernel: how large a block is, how many programs there are."""

from __future__ import annotations

from typing import Any

from fuselab.course.exercises.exercise import BASICS, Case, Exercise, Maker, next_power_of_2

__all__ = ["EXERCISES"]

WIDEST = 4096
COLUMNS_A_WARP = 256
MOST_WARPS = 16


def _width(case: Case, _make: Maker) -> dict[str, Any]:
    return {"N": int(case.options["N"])}


def _block_choice(g: Any, mistake: str) -> tuple[Any, ...]:
    import torch

    n = int(g.N)
    block = min(next_power_of_2(n), WIDEST)
    match mistake:
        case "power_below":
            block = min(1 << (n.bit_length() - 1), WIDEST)
        case "power_above":
            block = min(1 << n.bit_length(), WIDEST)
        case "not_a_power":
            block = min(n, WIDEST)
        case "no_upper_limit":
            block = next_power_of_2(n)
    warps = max(1, min(block // COLUMNS_A_WARP, MOST_WARPS))
    match mistake:
        case "no_upper_limit":
            warps = max(1, block // COLUMNS_A_WARP)
        case "no_lower_limit":
            warps = min(block // COLUMNS_A_WARP, MOST_WARPS)
        case "warps_of_the_row":
            warps = max(1, min(n // COLUMNS_A_WARP, MOST_WARPS))
    return torch.tensor(block, dtype=torch.float64), torch.tensor(warps, dtype=torch.float64)


def _scaling(case: Case, make: Maker) -> dict[str, Any]:
    return {"x": make(*case.shape), "factor": 2.5, "programs": int(case.options["programs"])}


def _persistent_scale(g: Any, mistake: str) -> tuple[Any, ...]:
    match mistake:
        case "factor_ignored":
            return (g.x,)
        case "wrong_operation":
            return (g.x + g.factor,)
        case "first_block_only":
            # Every round of the loop loads the program's first block again.
            block, programs = 128, g.programs
            n = g.x.numel()
            return (g.x[[(i // block % programs) * block + i % block for i in range(n)]] * g.factor,)
    return (g.x * g.factor,)


EXERCISES = (
    Exercise(
        name="block_choice",
        title="Choose a block and its warps",
        notebook=BASICS,
        level=1,
        call="block_choice(N) -> (BLOCK_N, num_warps)",
        task=(
            "For a row of N columns in one block: the smallest power of two that holds it, at most 4096 (wider rows"
            " are "
            "looped over); one warp for each 256 columns of the block, at least 1 and at most 16."
        ),
        hints=(
            "triton.next_power_of_2 exists, and so does int.bit_length. What should 512 give, what 513?",
            "The warps follow from the block that you chose, not from N.",
            "min(..., 4096) for the block; max(1, min(block // 256, 16)) for the warps.",
        ),
        outputs=("BLOCK_N", "num_warps"),
        inputs=_width,
        model=_block_choice,
        mistakes=("power_below", "power_above", "not_a_power", "no_upper_limit", "no_lower_limit", "warps_of_the_row"),
        cases=tuple(Case("f32", (), "contiguous", {"N": n}) for n in (100, 512, 513, 1000, 4096, 50_000, 1, 3000)),
        needs_triton=False,
    ),
    Exercise(
        name="persistent_scale",
        title="A fixed number of programs",
        notebook=BASICS,
        level=2,
        call="persistent_scale(x, factor, programs) -> y",
        task=(
            "Multiply x by factor with exactly `programs` programs: each takes a block, then the one `programs` "
            "further on."
        ),
        hints=(
            (
                "The loop runs over block numbers: where does a program begin, how far is it to its next block, "
                "where is the end?"
            ),
            "tl.program_id(0) is the first, tl.num_programs(0) the step; the number of blocks has to be rounded up.",
            "for block in range(tl.program_id(0), tl.cdiv(n, BLOCK), tl.num_programs(0)), offsets from block, masked.",
        ),
        outputs=("y",),
        inputs=_scaling,
        model=_persistent_scale,
        mistakes=("factor_ignored", "wrong_operation", "first_block_only"),
        cases=(
            Case("f32", (1000,), "contiguous", {"programs": 3}),
            Case("f32", (256,), "contiguous", {"programs": 4}),
            Case("bf16", (700,), "contiguous", {"programs": 2}),
        ),
        kernel="persistent_scale_kernel",
    ),
)

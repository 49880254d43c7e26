"""Choose a block and its warps: block_choice(N) -> (BLOCK_N, num_warps)

For a row of N columns in one block: the smallest power of two that holds it, at most 4096 (wider rows are
looped over); one warp for each 256 columns of the block, at least 1 and at most 16.

Replace each `...`, then: fuselab course --check block_choice
or in a notebook: check("block_choice", block_choice); stuck: hint("block_choice")
"""


def block_choice(N):
    BLOCK_N = ...  # the smallest power of two that holds N, at most 4096
    num_warps = ...  # one for each 256 columns of the block, 1 to 16
    return BLOCK_N, num_warps

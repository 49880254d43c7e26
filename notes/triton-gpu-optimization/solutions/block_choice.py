"""A block for a row of N columns, and its warps."""


def block_choice(N):
    BLOCK_N = min(1 << (N - 1).bit_length(), 4096)
    num_warps = max(1, min(BLOCK_N // 256, 16))
    return BLOCK_N, num_warps

"""Symbolic index arithmetic against enumeration of every point."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuselab.ir.address_sets import AddressSet, count_points, touched, union_size
from fuselab.ir.addresses import Bound, Dim, Index


def enumerated(address, dims, bounds):
    """Addresses of all points where the bounds hold, in plain Python."""
    import numpy as np

    found = []
    for point in itertools.product(*(range(d.extent) for d in dims)):
        at = {d.name: np.int64(v) for d, v in zip(dims, point, strict=True)}
        if all(int(b.index.values(at)) < b.limit for b in bounds):
            found.append(int(address.values(at)))
    return found


@settings(max_examples=200, deadline=None)
@given(
    extents=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    strides=st.lists(st.integers(-7, 12), min_size=3, max_size=3),
    limit=st.integers(-2, 30),
    bounded=st.booleans(),
)
def test_counts_equal_enumeration(extents, strides, limit, bounded):
    dims = [Dim(f"d{i}", n) for i, n in enumerate(extents)]
    address = Index(3)
    for dim, stride in zip(dims, strides, strict=False):
        address = address + Index.of(dim) * stride
    bounds = [Bound(address, limit)] if bounded else []
    points = enumerated(address, dims, bounds)
    found = touched(address, dims, bounds)
    assert count_points(dims, bounds) == len(points)
    assert found is not None
    assert found.count == len(set(points))
    if points:
        assert (found.low, found.high) == (min(points), max(points))


@settings(max_examples=200, deadline=None)
@given(
    programs=st.integers(1, 5),
    block=st.integers(1, 8),
    width=st.integers(1, 9),
    numel=st.integers(0, 45),
    coefficients=st.tuples(st.integers(0, 12), st.integers(0, 12)),
)
def test_rows_and_columns_of_a_masked_flat_index(programs, block, width, numel, coefficients):
    dims = [Dim("program", programs), Dim("lane", block)]
    x = Index.of(dims[0]) * block + Index.of(dims[1])
    row, column = x // width, x % width
    assert row is not None
    assert column is not None
    address = row * coefficients[0] + column * coefficients[1]
    bounds = [Bound(x, numel)]
    points = enumerated(address, dims, bounds)
    found = touched(address, dims, bounds)
    assert found is not None
    assert found.count == len(set(points))
    assert count_points(dims, bounds) == len(points)


def test_large_spaces_are_counted_without_enumeration():
    program, lane = Dim("program", 1 << 20), Dim("lane", 1024)
    x = Index.of(program) * 1024 + Index.of(lane)
    assert touched((x // 4096) * 8192 + x % 4096, [program, lane], [Bound(x, 1 << 29)]).count == 1 << 29
    assert touched(x % 4096, [program, lane], [Bound(x, 1 << 29)]).count == 4096


def test_what_is_neither_plain_nor_small_is_not_guessed():
    a, b = Dim("a", 1 << 14), Dim("b", 1 << 14)
    assert touched(Index.of(a) * 3 + Index.of(b) * 7, [a, b], [Bound(Index.of(a) - Index.of(b), 0)]) is None


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        ([AddressSet(10, 0, 9, (), 10, True), AddressSet(10, 5, 14, (), 10, True)], (15, True)),
        ([AddressSet(10, 0, 9, (), 10, True), AddressSet(3, 2, 8)], (10, True)),
        ([AddressSet(4, 0, 9), AddressSet(4, 20, 29)], (8, True)),
        ([AddressSet(4, 0, 9), AddressSet(4, 5, 29)], (8, False)),
        ([AddressSet(4, 0, 9), AddressSet(4, 0, 9)], (4, True)),
        ([], (0, True)),
    ],
)
def test_unions(sets, expected):
    assert union_size(sets) == expected

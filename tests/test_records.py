"""Records: keys that are unique and safe, JSON that comes back as it went."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuselab import records
from fuselab.records import Direction, Measurement, Sample, Status, Workload

workloads = st.builds(
    Workload,
    shape=st.lists(st.integers(1, 1 << 20), max_size=4).map(tuple),
    dtype=st.sampled_from(sorted(records.DTYPES)),
    options=st.dictionaries(st.text(max_size=8), st.one_of(st.booleans(), st.integers(-9, 9), st.text(max_size=8))),
    arguments=st.dictionaries(st.text(max_size=8), st.text(max_size=30), max_size=2),
    seed=st.integers(0, 1 << 31),
)


@given(workloads)
def test_a_workload_comes_back_from_json(workload):
    assert msgspec.json.decode(msgspec.json.encode(workload), type=Workload) == workload


@given(workloads, workloads)
def test_keys_tell_workloads_apart_and_are_safe_file_names(first, second):
    assert (first.key == second.key) is (first == second)
    assert set(first.key) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.=_+-")
    assert not first.key.startswith(".")
    assert len(first.key) <= 64


@pytest.mark.parametrize(
    ("workload", "label"),
    [
        (Workload(shape=(64, 256), dtype="f32"), "64x256 f32"),
        (Workload(shape=(4, 8, 16), dtype="bf16", options={"p": 0.1}), "4x8x16 bf16 p=0.1"),
        (Workload(arguments={"x": "bf16[8,8]", "eps": "1e-5"}), "x=bf16[8,8] eps=1e-5"),
        (Workload(shape=(2, 2), layout="transposed"), "2x2 f32 transposed"),
        (Workload(), "default"),
    ],
)
def test_labels(workload, label):
    assert workload.label == label


def test_a_measurement_comes_back_from_json():
    measurement = Measurement(
        experiment="silu",
        variant="compile",
        workload=Workload(shape=(2, 3)),
        direction=Direction.BACKWARD,
        status=Status.OK,
        samples=[Sample(round=0, position=1, duration_ns=1234.5, calls=3)],
    )
    again = msgspec.json.decode(msgspec.json.encode(measurement), type=Measurement)
    assert again == measurement
    assert again.key.direction is Direction.BACKWARD


def test_every_field_has_a_unit_or_no_dimension():
    """Durations and sizes say their unit in the name."""
    for name in records.__all__:
        record = getattr(records, name)
        if isinstance(record, type) and issubclass(record, msgspec.Struct):
            for field in record.__struct_fields__:
                assert not field.endswith(("duration", "_time", "size", "bandwidth")), f"{name}.{field} has no unit"


def test_the_room_offers_every_record_of_its_files():
    defined = {
        name
        for module in pkgutil.iter_modules(records.__path__, "fuselab.records.")
        for name, value in vars(importlib.import_module(module.name)).items()
        if isinstance(value, type) and value.__module__ == module.name and not name.startswith("_")
    }
    assert defined - {"Record"} <= set(records.__all__)  # the base is the room's own
    assert len(defined) > 20


def test_a_record_comes_back_from_pickle():
    """Nothing of ours pickles a record; a user's own pool of processes may."""
    measurement = Measurement(
        experiment="silu", variant="eager", workload=Workload(), direction=Direction.FORWARD, status=Status.OK
    )
    assert pickle.loads(pickle.dumps(measurement)) == measurement


def test_importing_the_records_imports_no_torch():
    code = "import sys, fuselab.records\nassert not {'torch', 'triton', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

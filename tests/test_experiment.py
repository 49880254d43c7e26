"""The registry, and what an experiment says to a workload it cannot have."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import warnings

import pytest

from fuselab.errors import UnknownNameError, UsageError
from fuselab.experiment import BUILT_IN, Experiment, Inputs, Variant, VariantKind, load_registry
from fuselab.records import Traffic, Workload

NAMES = ["layer_norm_gelu", "softmax_dropout", "rms_norm", "silu"]


def entry_point(name: str, value: str) -> importlib.metadata.EntryPoint:
    return importlib.metadata.EntryPoint(name=name, value=value, group="fuselab.experiments")


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """A module on the path with a good plugin, a bad one, and one that takes a name."""
    (tmp_path / "a_plugin_of_the_tests.py").write_text(
        "import dataclasses\n"
        "from fuselab.experiments.silu import EXPERIMENT\n"
        "GOOD = dataclasses.replace(EXPERIMENT, name='geglu')\n"
        "TAKEN = EXPERIMENT\n"
        "NUMBER = 3\n"
    )
    (tmp_path / "a_broken_plugin_of_the_tests.py").write_text("raise RuntimeError('no such library')\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for module in ("a_plugin_of_the_tests", "a_broken_plugin_of_the_tests"):
        sys.modules.pop(module, None)


def test_built_in_experiments_come_in_the_listed_order():
    registry = load_registry([])
    assert list(registry) == NAMES == [reference.split(":")[0].rpartition(".")[2] for reference in BUILT_IN]
    assert all(name == experiment.name for name, experiment in registry.items())
    assert all(experiment.target is None for experiment in registry.values())


def test_a_plugin_comes_after_the_built_in_ones(plugins):
    registry = load_registry([entry_point("geglu", "a_plugin_of_the_tests:GOOD")])
    assert list(registry) == [*NAMES, "geglu"]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("a_broken_plugin_of_the_tests:X", "no such library"),
        ("a_module_that_is_not_there:X", "No module named"),
        ("a_plugin_of_the_tests:ABSENT", "ABSENT"),
        ("a_plugin_of_the_tests:NUMBER", "is a int, not a fuselab Experiment"),
    ],
)
def test_a_broken_plugin_warns_and_the_others_load(plugins, value, says):
    with pytest.warns(UserWarning, match="experiment plugin 'theirs'") as caught:
        registry = load_registry([entry_point("theirs", value), entry_point("geglu", "a_plugin_of_the_tests:GOOD")])
    assert list(registry) == [*NAMES, "geglu"]
    assert says in str(caught[0].message)
    assert value in str(caught[0].message)


def test_two_experiments_of_one_name_raise(plugins):
    with pytest.raises(UsageError) as caught:
        load_registry([entry_point("silu", "a_plugin_of_the_tests:TAKEN")])
    assert "two experiments are named 'silu'" in caught.value.message
    assert "fuselab.experiments.silu:EXPERIMENT" in caught.value.message
    assert "a_plugin_of_the_tests:TAKEN" in caught.value.message


def test_declaring_experiments_imports_no_torch():
    code = (
        "import sys, pkgutil, importlib, fuselab.experiments as room\n"
        "from fuselab.experiment import load_registry\n"
        "names = [m.name for m in pkgutil.iter_modules(room.__path__)]\n"
        "assert len(names) >= 10, names\n"
        "for name in names: importlib.import_module(f'fuselab.experiments.{name}')\n"
        "for e in load_registry([]).values():\n"
        "    for device in ('cpu', 'cuda'):\n"
        "        for w in e.workloads('full', device):\n"
        "            [v.unavailable(w, device) for v in e.variants]\n"
        "            [e.traffic(w, d) for d in ('forward', 'backward')]\n"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('torch', 'triton', 'liger_kernel', 'quack')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


# What an experiment says


@pytest.fixture
def experiment() -> Experiment:
    def nothing(*_args):
        raise AssertionError("not called")

    return Experiment(
        name="thing",
        description="",
        variants=(Variant("eager", "", VariantKind.EAGER, nothing), Variant("triton", "", VariantKind.TRITON, nothing)),
        make_inputs=nothing,
        reference=nothing,
        traffic=lambda w, d: Traffic(bytes_read=1, bytes_written=1),
        workloads=nothing,
        options={"form": ("plain", "add"), "p": (0.1,), "free": ()},
        min_rank=2,
    )


def test_a_workload_has_every_option_with_a_default(experiment):
    assert experiment.workload((4, 8), "f32", 3, {"form": "add"}) == Workload(
        shape=(4, 8), dtype="f32", seed=3, options={"form": "add", "p": 0.1}
    )


@pytest.mark.parametrize("options", [{"p": 0.7}, {"free": "anything"}])
def test_an_option_with_at_most_one_listed_value_takes_any(experiment, options):
    assert experiment.workload((4, 8), "f32", 0, options).options.items() >= options.items()


@pytest.mark.parametrize(
    ("shape", "options", "error", "says"),
    [
        ((4,), {}, UsageError, ["thing needs a shape of at least 2 axes, got '4'", "--shape 4096x4096"]),
        ((4, 8), {"fform": "add"}, UnknownNameError, ["unknown option of thing 'fform'", "did you mean 'form'?"]),
        ((4, 8), {"form": "ad"}, UsageError, ["thing has no form='ad'", "'plain', 'add'"]),
    ],
)
def test_a_workload_that_cannot_be(experiment, shape, options, error, says):
    with pytest.raises(error) as caught:
        experiment.workload(shape, "f32", 0, options)
    for words in says:
        assert words in str(caught.value)


def test_an_unknown_variant_names_the_nearest(experiment):
    assert experiment.variant("triton").name == "triton"
    with pytest.raises(UnknownNameError, match="did you mean 'triton'"):
        experiment.variant("trition")


# Inputs


class Tensor:
    """Stands in for a torch tensor: what Inputs looks at is ``requires_grad``."""

    def __init__(self, requires_grad=False):
        self.requires_grad = requires_grad


def test_inputs_find_their_tensors_by_name():
    x, y, z = Tensor(True), Tensor(), Tensor(True)
    inputs = Inputs((x, 3, y), {"z": z, "eps": 1e-5}, names=("x", "n"))
    assert list(inputs.tensors()) == [("x", x), ("args[2]", y), ("z", z)]
    assert inputs.differentiable() == [("x", x), ("z", z)]


def test_mapping_inputs_keeps_what_is_no_tensor():
    mapped = Inputs((Tensor(), 3), {"z": Tensor(), "mode": "tanh"}, names=("x", "n")).map(lambda t: "mapped")
    assert mapped.args == ("mapped", 3)
    assert mapped.kwargs == {"z": "mapped", "mode": "tanh"}
    assert mapped.names == ("x", "n")


def test_no_warning_where_every_plugin_loads(plugins):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_registry([entry_point("geglu", "a_plugin_of_the_tests:GOOD")])

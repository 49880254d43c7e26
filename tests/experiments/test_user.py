"""A user's own file as an experiment: what is read without running it, and what a worker then runs."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch

from fuselab.errors import ArgumentSpecError, FuselabError, UnknownNameError, UsageError
from fuselab.experiments.user import experiment_from, experiment_of_callable
from fuselab.experiments.user_arguments import bind
from fuselab.records import Direction, Traffic

MINE = '''
import torch
from torch import nn

import beside_mine


def pair(x, w, *, eps: float = 1e-5, flag=True):
    """Scale x.

    And more.
    """
    return beside_mine.twice(x) * w + eps, x.sum(-1)


def anything(x, *args, **kwargs):
    return x


def silu(x):
    return x * torch.sigmoid(x)


class Net(nn.Module):
    """A net."""

    def __init__(self, n, bias=True):
        super().__init__()
        self.linear = nn.Linear(n, n, bias=bias)
        self.drop = nn.Dropout(0.0)
        self.scale = nn.Parameter(torch.randn(n))

    def forward(self, x, mask=None):
        y = self.drop(self.linear(x)) * self.scale
        return y if mask is None else y * mask


class Derived(Net):
    pass


class NoModule:
    pass


net = Net(16).eval()
narrow = lambda x: x @ torch.ones(16, 16)
number = 3


def embed(ids, table):
    return table[ids]


def get_init_inputs():
    return [16]
'''


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    (tmp_path / "beside_mine.py").write_text("def twice(x):\n    return 2 * x\n")
    yield path
    sys.modules.pop("beside_mine", None)


def workload_of(experiment):
    (workload,) = experiment.workloads("quick", "cpu")
    return workload


def call(experiment, inputs, variant="eager"):
    return experiment.variant(variant).build(workload_of(experiment))(*inputs.args, **inputs.kwargs)


def refused(path, name, *arguments) -> FuselabError:
    with pytest.raises(FuselabError) as caught:
        experiment_from(f"{path}:{name}", arguments)
    assert caught.value.exit_code == 2
    return caught.value


# Without running it


def test_the_file_is_not_run_to_make_the_experiment(tmp_path):
    path = tmp_path / "explosive.py"
    path.write_text("raise SystemExit('it was run')\n\ndef f(x):\n    return x\n")
    experiment = experiment_from(f"{path}:f", ["x=f32[4]"], seed=3)
    workload = workload_of(experiment)
    assert experiment.name == "f"
    assert experiment.target == f"{path}:f"
    assert workload.arguments == {"x": "f32[4]"}
    assert workload.label == "x=f32[4]"
    assert workload.seed == 3
    assert [v.name for v in experiment.variants] == ["eager", "compile", "compile-max-autotune"]
    assert experiment.variant("compile-max-autotune").unavailable(workload, "cpu")
    with pytest.raises(SystemExit, match="it was run"):
        experiment.make_inputs(workload, "cpu")


def test_making_the_experiment_imports_no_torch(mine):
    code = (
        "import sys; from fuselab.experiments.user import experiment_from\n"
        f"experiment_from({str(mine)!r} + ':Net', ['x=f32[8,16]'])\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"


def test_a_relative_path_becomes_absolute(mine, monkeypatch):
    monkeypatch.chdir(mine.parent)
    assert experiment_from("mine.py:silu", ["x=f32[4]"]).target == f"{mine}:silu"


@pytest.mark.parametrize(
    ("name", "arguments", "called", "description"),
    [
        ("pair", ["x=f32[4]", "w=f32[4]"], "pair", "Scale x."),
        ("silu", ["x=f32[4]"], "user-silu", "silu of mine.py"),
        ("Net", ["x=f32[8,16]"], "Net", "A net."),
    ],
)
def test_name_and_description(mine, name, arguments, called, description):
    experiment = experiment_from(f"{mine}:{name}", arguments)
    assert (experiment.name, experiment.description) == (called, description)


def test_a_name_that_is_no_directory_gets_one(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(f"def größe(x): return x\ndef grö_e(x): return x\ndef {'l' * 300}(x): return x\n")
    found = [experiment_from(f"{path}:{n}", ["x=f32[4]"]).name for n in ("größe", "grö_e", "l" * 300)]
    assert len(set(found)) == 3
    assert all(name.isascii() and len(name) <= 64 and name.replace("-", "_").isidentifier() for name in found)


@pytest.mark.parametrize(
    ("name", "arguments", "error", "says"),
    [
        ("pare", [], UnknownNameError, ["unknown name in mine.py 'pare'; did you mean 'pair'?", "Net, NoModule"]),
        ("torch", [], UnknownNameError, ["unknown name in mine.py 'torch'"]),
        ("a.b", [], UsageError, ["'a.b' is not a name at the top level", "FILE.py:NAME"]),
        ("pair", [], ArgumentSpecError, ["mine.py:pair needs x, w, and no --arg gives them", "'w=bf16[4096,1024]'"]),
        ("pair", ["x=f32[4]"], ArgumentSpecError, ["needs w, and no --arg gives it", "--arg 'x=f32[4]' --arg 'w="]),
        ("pair", ["x=f32[4]", "esp=1"], ArgumentSpecError, ["'esp'; did you mean 'eps'?", "x, w, eps, flag"]),
        ("pair", ["x=f32[4]", "x=f32[5]", "w=f32[4]"], ArgumentSpecError, ["--arg x is given twice"]),
        ("pair", ["x=f33[4]"], ArgumentSpecError, ["unknown dtype 'f33'"]),
        ("Net", [], ArgumentSpecError, ["mine.py:Net needs x"]),
        ("Derived", ["y=f32[4]"], ArgumentSpecError, ["no parameter 'y'", "its parameters: x, mask"]),
        ("net", [], ArgumentSpecError, ["mine.py:net needs x"]),
        ("narrow", [], ArgumentSpecError, ["mine.py:narrow needs x"]),
        ("anything", [], ArgumentSpecError, ["mine.py:anything needs x"]),
    ],
)
def test_what_the_syntax_already_shows_to_be_wrong(mine, name, arguments, error, says):
    found = refused(mine, name, *arguments)
    assert type(found) is error
    for words in says:
        assert words in str(found)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("{folder}/mien.py:pair", ["there is no file {folder}/mien.py", "did you mean {folder}/mine.py?"]),
        ("{folder}/zzzz.py:pair", ["there is no file", "Python files there: beside_mine.py, mine.py"]),
        ("{folder}/no/where.py:pair", ["there is no file", "the folder {folder}/no cannot be read"]),
        ("{folder}:pair", ["is not a .py file"]),
        ("{folder}/mine.txt:pair", ["is not a .py file", "FILE.py:NAME"]),
        ("{folder}/mine.py", ["does not say which function or module to take; it defines pair", "FILE.py:NAME"]),
        ("{folder}/mine.py:", ["does not say which function or module to take", "FILE.py:NAME"]),
        (":pair", ["does not say which", "FILE.py:NAME"]),
        ("", ["does not say which", "FILE.py:NAME"]),
    ],
)
def test_targets_that_are_none(mine, target, says):
    with pytest.raises(UsageError) as caught:
        experiment_from(target.format(folder=mine.parent), [])
    for words in says:
        assert words.format(folder=mine.parent) in str(caught.value)


def test_a_directory_is_called_one_and_is_no_near_match(mine):
    folder = mine.parent / "folder.py"
    folder.mkdir()
    with pytest.raises(UsageError, match=r"folder\.py is a directory\n  hint: name a Python file"):
        experiment_from(f"{folder}:pair", [])
    with pytest.raises(UsageError, match=r"there is no file") as caught:
        experiment_from(f"{mine.parent / 'foldr.py'}:pair", [])
    assert "folder.py" not in str(caught.value)


def test_bytes_that_are_no_python_have_no_line(mine):
    binary = mine.parent / "binary.py"
    binary.write_bytes(b"\0")
    with pytest.raises(UsageError, match="null bytes") as caught:
        experiment_from(f"{binary}:pair", [])
    assert str(caught.value).startswith(f"{binary}: ")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"def f(x):\n    return x +\n", [":2: invalid syntax", "return x +", "not valid Python"]),
        (b"x = '\xff'\n", ["not valid Python"]),
        (b"x = 1\0\n", ["not valid Python"]),
        (b"(" * 100_000, ["not valid Python"]),
    ],
    ids=["syntax", "encoding", "NUL", "depth"],
)
def test_a_file_that_is_not_python(tmp_path, content, says):
    path = tmp_path / "mine.py"
    path.write_bytes(content)
    found = refused(path, "f")
    assert str(path) in found.message
    for words in says:
        assert words in str(found)


CONDITIONAL = """
import functools
if True:
    def f(x): return x
else:
    def g(x): return x
try:
    from somewhere import h
except ImportError:
    def h(x): return x
if __name__ == "__main__":
    def only_as_a_script(x): return x
with open("x") as file:
    def i(x): return x
a, (b, *c) = 1, (2, 3)
def decorated_by(function): return function
@decorated_by
def j(): return 1
@torch.compile
def k(x): return x
"""


@pytest.mark.parametrize("name", ["f", "g", "h", "i", "k"])
def test_names_below_if_try_and_with_are_found(tmp_path, name):
    path = tmp_path / "mine.py"
    path.write_text(CONDITIONAL)
    assert "needs x" in refused(path, name).message
    experiment_from(f"{path}:{name}", ["x=f32[4]"])


def test_what_only_a_script_defines_is_not_found(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(CONDITIONAL)
    found = refused(path, "only_as_a_script")
    assert isinstance(found, UnknownNameError)
    assert "a, b, c, decorated_by" in found.hint


def test_a_decorator_that_may_change_the_parameters_leaves_them_to_the_worker(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(CONDITIONAL)
    experiment_from(f"{path}:j", ["x=f32[4]"])


def test_a_star_import_may_define_anything(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from torch.nn.functional import *\n")
    experiment = experiment_from(f"{path}:relu", ["input=f32[4]"])
    inputs = experiment.make_inputs(workload_of(experiment), "cpu")
    assert torch.equal(call(experiment, inputs), inputs.args[0].relu())


# Running it


def test_a_function_gets_its_arguments_by_position_where_it_can(mine):
    experiment = experiment_from(f"{mine}:pair", ["flag=false", "w=f32[16]", "x=bf16[8,16]:requires_grad"], seed=1)
    inputs = experiment.make_inputs(workload_of(experiment), "cpu")
    assert inputs.names == ("x", "w")
    assert inputs.kwargs == {"flag": False}
    x, w = inputs.args
    assert (x.dtype, x.shape, x.requires_grad) == (torch.bfloat16, (8, 16), True)
    assert (w.dtype, w.shape, w.requires_grad) == (torch.float32, (16,), False)
    scaled, total = call(experiment, inputs)
    assert torch.equal(scaled, 2 * x * w + 1e-5)
    assert total.shape == (8,)


def test_extra_arguments_go_where_the_signature_takes_them(mine):
    experiment = experiment_from(f"{mine}:anything", ["x=f32[4]", "n=3", "mode=tanh"])
    assert experiment.make_inputs(workload_of(experiment), "cpu").kwargs == {"n": 3, "mode": "tanh"}


def test_arguments_are_drawn_as_described(mine):
    texts = ["x=f32[64,64]", "a=i64[1000]<7", "b=i8[1000]>=-3<128", "c=bool[1000]", "d=f64[]", "e=u8[9]", "z=none"]
    experiment = experiment_from(f"{mine}:anything", texts, seed=5)
    workload = workload_of(experiment)
    inputs = experiment.make_inputs(workload, "cpu")
    (x,), drawn = inputs.args, inputs.kwargs
    assert abs(float(x.mean())) < 0.1
    assert abs(float(x.std()) - 1) < 0.1
    assert set(drawn["a"].tolist()) == set(range(7))
    assert (drawn["b"].dtype, int(drawn["b"].min()) >= -3, int(drawn["b"].max()) > 100) == (torch.int8, True, True)
    assert 400 < int(drawn["c"].sum()) < 600
    assert (drawn["d"].dtype, drawn["d"].shape) == (torch.float64, ())
    assert int(drawn["e"].max()) < 10
    assert drawn["z"] is None
    again = experiment.make_inputs(workload, "cpu")
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(inputs.tensors(), again.tensors(), strict=True))


def test_another_seed_draws_other_inputs_and_keeps_the_parameters(mine):
    import msgspec

    experiment = experiment_from(f"{mine}:Net", ["x=f32[8,16]"], seed=1)
    workload = workload_of(experiment)
    other = msgspec.structs.replace(workload, seed=2)
    assert not torch.equal(
        experiment.make_inputs(workload, "cpu").args[0], experiment.make_inputs(other, "cpu").args[0]
    )
    first, second = (experiment.variant("eager").build(w) for w in (workload, other))
    assert torch.equal(first.scale, second.scale)


@pytest.mark.parametrize("name", ["Net", "Derived", "net"])
def test_a_module_is_new_for_each_variant_with_the_same_parameters(mine, name):
    state = torch.get_rng_state()
    experiment = experiment_from(f"{mine}:{name}", ["x=f32[8,16]:requires_grad"], seed=4)
    workload = workload_of(experiment)
    inputs = experiment.make_inputs(workload, "cpu")
    assert inputs.names == ("x",)
    eager, compiled = (experiment.variant(v).build(workload) for v in ("eager", "compile"))
    again = experiment_from(f"{mine}:{name}", ["x=f32[8,16]"], seed=4).variant("eager").build(workload)
    assert eager is not compiled
    assert eager.training
    assert [n for n, _ in eager.named_parameters()] == ["scale", "linear.weight", "linear.bias"]
    for a, b, c in zip(eager.parameters(), compiled.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
        assert a is not b
    other = experiment_from(f"{mine}:{name}", ["x=f32[8,16]"], seed=5).variant("eager").build(workload)
    assert not torch.equal(eager.scale, other.scale)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_module_built_before_its_inputs_goes_where_they_are(mine):
    experiment = experiment_from(f"{mine}:Net", ["x=f32[8,16]"])
    workload = workload_of(experiment)
    early = experiment.variant("eager").build(workload)
    parameter = early.scale
    # The meta device has no random numbers, so that the drawing fails, after the move.
    with pytest.raises(RuntimeError, match=r"(?i)meta"):
        experiment.make_inputs(workload, "meta")
    assert early.scale.device.type == "meta"
    assert experiment.variant("eager").build(workload).scale.device.type == "meta"
    assert parameter.shape == early.scale.shape


@pytest.mark.parametrize("name", ["pair", "Net", "net"])
def test_the_reference_is_the_same_code_in_float64(mine, name):
    arguments = ["x=f32[8,16]:requires_grad"] + (["w=f32[16]"] if name == "pair" else [])
    experiment = experiment_from(f"{mine}:{name}", arguments)
    workload = workload_of(experiment)
    inputs = experiment.make_inputs(workload, "cpu")
    wide = inputs.map(lambda t: t.detach().double().requires_grad_(t.requires_grad))
    reference = experiment.reference(workload)
    expected, got = reference(*wide.args, **wide.kwargs), call(experiment, inputs)
    if name == "pair":
        expected, got = expected[0], got[0]
    assert expected.dtype == torch.float64
    assert float((expected - got).detach().abs().max()) < 1e-5
    if name != "pair":
        # Whoever checks gives a copy of the reference eager's own parameters: it is the copy that has to be called.
        copied = copy.deepcopy(reference)
        with torch.no_grad():
            copied.scale.zero_()
        assert float(copied(*wide.args).detach().abs().max()) == 0.0
        assert [n for n, _ in copied.named_parameters()] == ["scale", "linear.weight", "linear.bias"]
        assert len(torch.autograd.grad(copied(*wide.args).sum(), list(copied.parameters()))) == 3


def test_code_that_refuses_float64_is_named(mine):
    experiment = experiment_from(f"{mine}:narrow", ["x=f32[8,16]"])
    workload = workload_of(experiment)
    inputs = experiment.make_inputs(workload, "cpu")
    call(experiment, inputs)
    with pytest.raises(UsageError, match="narrow refuses float64 inputs") as caught:
        experiment.reference(workload)(inputs.args[0].double())
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert "x.dtype" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "says"),
    [("NoModule", "is a class and no torch.nn.Module"), ("number", "is a int and cannot be called")],
)
def test_names_that_cannot_be_studied(mine, name, says):
    experiment = experiment_from(f"{mine}:{name}", [])
    with pytest.raises(UsageError, match=says):
        experiment.variant("eager").build(workload_of(experiment))


def test_a_class_that_needs_arguments_says_where_they_come_from(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from torch import nn\nfrom torch.nn import Linear\n")
    experiment = experiment_from(f"{path}:Linear", ["input=f32[8,16]"])
    with pytest.raises(UsageError, match="Linear cannot be constructed: missing a required argument") as caught:
        experiment.variant("eager").build(workload_of(experiment))
    assert "get_init_inputs()" in caught.value.hint


def test_an_imported_function_has_its_arguments_checked_by_the_worker(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from torch.nn.functional import layer_norm\n")
    experiment = experiment_from(f"{path}:layer_norm", ["input=f32[8,16]"])
    with pytest.raises(ArgumentSpecError, match="layer_norm needs 'normalized_shape'"):
        experiment.make_inputs(workload_of(experiment), "cpu")
    experiment = experiment_from(f"{path}:layer_norm", ["inputs=f32[8,16]", "normalized_shape=none", "input=f32[2]"])
    with pytest.raises(ArgumentSpecError, match="layer_norm has no parameter 'inputs'"):
        experiment.make_inputs(workload_of(experiment), "cpu")


# get_inputs()


@pytest.mark.parametrize(
    ("returned", "names"),
    [
        ("[torch.randn(4, 8, requires_grad=True), 2.0]", ("args[0]",)),
        ("(torch.randn(4, 8, requires_grad=True),)", ("args[0]",)),
        ("{'x': torch.randn(4, 8, requires_grad=True)}", ("x",)),
        ("torch.randn(4, 8, requires_grad=True) * 1", ("args[0]",)),
    ],
)
def test_get_inputs_stands_in_for_arguments(tmp_path, returned, names):
    path = tmp_path / "mine.py"
    path.write_text(f"import torch\ndef f(x, s=1.0): return x * s\ndef get_inputs():\n    return {returned}\n")
    experiment = experiment_from(f"{path}:f", [], seed=2)
    workload = workload_of(experiment)
    assert workload.arguments == {}
    assert workload.label == "default"
    state = torch.get_rng_state()
    inputs, again = (experiment.make_inputs(workload, "cpu") for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    ((name, x),) = inputs.tensors()
    assert (name,) == names
    assert x.requires_grad
    assert x.is_leaf
    assert torch.equal(x, next(again.tensors())[1])
    assert call(experiment, inputs).shape == (4, 8)


def test_arguments_come_before_get_inputs(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("import torch\ndef f(x): return x\ndef get_inputs(): return [torch.ones(3)]\n")
    experiment = experiment_from(f"{path}:f", ["x=f32[5]"])
    assert experiment.make_inputs(workload_of(experiment), "cpu").args[0].shape == (5,)


def test_get_inputs_that_returns_something_else(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def f(x): return x\ndef get_inputs(): return 3\n")
    experiment = experiment_from(f"{path}:f", [])
    with pytest.raises(UsageError, match=r"get_inputs\(\) returned a int"):
        experiment.make_inputs(workload_of(experiment), "cpu")


# What the user's file raises is the user's


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("import torch_that_is_not_there\ndef f(x): return x\n", ModuleNotFoundError),
        ("def f(x): return x\nraise ValueError('theirs')\n", ValueError),
        ("import sys\ndef f(x): return x\nsys.exit(3)\n", SystemExit),
    ],
)
def test_what_the_file_raises_passes_through(tmp_path, content, error):
    path = tmp_path / "mine.py"
    path.write_text(content)
    modules, folders = set(sys.modules), list(sys.path)
    experiment = experiment_from(f"{path}:f", ["x=f32[4]"])
    with pytest.raises(error):
        experiment.variant("eager").build(workload_of(experiment))
    assert not [name for name in set(sys.modules) - modules if name.startswith("_fuselab")]
    assert sys.path == folders


def test_a_name_that_running_does_not_define(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("if False:\n    def f(x): return x\n")
    experiment = experiment_from(f"{path}:f", ["x=f32[4]"])
    with pytest.raises(UsageError, match=r"mine\.py did not define 'f'"):
        experiment.make_inputs(workload_of(experiment), "cpu")


def test_a_file_named_as_a_package_is_taken_for_itself(tmp_path):
    path = tmp_path / "torch.py"
    path.write_text(
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    n: int\ndef f(x): return x + A(1).n\n"
    )
    experiment = experiment_from(f"{path}:f", ["x=f32[4]"])
    inputs = experiment.make_inputs(workload_of(experiment), "cpu")
    assert torch.equal(call(experiment, inputs), inputs.args[0] + 1)
    assert sys.modules["torch"] is torch


# Traffic


@pytest.mark.parametrize(
    ("name", "arguments", "forward", "backward"),
    [
        (
            "pair",  # x 256 bytes, w 64; out 8 x 16 float32 and 8 bfloat16
            ["x=bf16[8,16]:requires_grad", "w=f32[16]:requires_grad"],
            Traffic(bytes_read=320, bytes_written=528, reads=1, writes=1),
            Traffic(bytes_read=528, bytes_written=320, reads=1, writes=1),
        ),
        ("pair", ["x=bf16[8,16]", "w=f32[16]"], Traffic(bytes_read=320, bytes_written=528, reads=1, writes=1), None),
        (
            "Net",  # x 512 bytes, weight 1024, bias and scale 64 each
            ["x=f32[8,16]"],
            Traffic(bytes_read=1664, bytes_written=512, reads=2, writes=1),
            Traffic(bytes_read=512, bytes_written=1152, reads=1, writes=1),
        ),
        ("net", ["x=f32[0,16]"], None, None),
        ("embed", ["ids=i64[4]<9", "table=f32[10,8]:requires_grad"], None, None),
        ("pair", ["x=bf16[8,16]", "w=f32[3]"], None, None),
    ],
)
def test_traffic_of_a_users_code(mine, name, arguments, forward, backward):
    experiment = experiment_from(f"{mine}:{name}", arguments)
    workload = workload_of(experiment)
    assert experiment.traffic(workload, Direction.FORWARD) == forward
    assert experiment.traffic(workload, Direction.BACKWARD) == backward
    # The meta device was for that one run only.
    assert next(experiment.make_inputs(workload, "cpu").tensors())[1].device.type == "cpu"


# Things of this process


def test_a_function_of_this_process():
    def double(x, factor=2.0):
        """Twice x."""
        return x * factor

    experiment = experiment_of_callable(double, ["x=f32[8]:requires_grad"], seed=1)
    assert (experiment.name, experiment.description, experiment.target) == ("double", "Twice x.", None)
    inputs = experiment.make_inputs(workload_of(experiment), "cpu")
    assert torch.equal(call(experiment, inputs), inputs.args[0] * 2)
    assert experiment.traffic(workload_of(experiment), Direction.FORWARD).bytes_moved == 64


def test_a_module_of_this_process_is_copied():
    module = torch.nn.Linear(4, 4).eval()
    experiment = experiment_of_callable(module, ["input=f32[8,4]"])
    built = experiment.variant("eager").build(workload_of(experiment))
    assert experiment.name == "Linear"
    assert built is not module
    assert built.training
    assert not module.training
    assert torch.equal(built.weight, module.weight)


@pytest.mark.parametrize(
    ("thing", "arguments", "says"),
    [
        (lambda x: x, [], "needs 'x'"),
        (lambda x: x, ["y=f32[4]", "x=f32[4]"], "has no parameter 'y'"),
        (lambda x: x, ["x=f32[4]", "x=f32[4]"], "given twice"),
        (3, [], "cannot be called"),
        (dict, [], "no torch.nn.Module"),
    ],
)
def test_things_of_this_process_are_checked_at_once(thing, arguments, says):
    with pytest.raises(UsageError, match=says):
        experiment_of_callable(thing, arguments)


def test_inputs_of_this_process():
    experiment = experiment_of_callable(lambda x: x + 1, [], get_inputs=lambda: [torch.ones(3)])
    assert experiment.name.isascii()
    assert "<" not in experiment.name
    inputs = experiment.make_inputs(workload_of(experiment), "cpu")
    assert call(experiment, inputs).tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("annotation", "example"),
    [("tl.constexpr", "BLOCK=1024"), ("int", "BLOCK=3"), ("torch.Tensor", "BLOCK=bf16[4096,1024]")],
)
def test_the_example_of_a_missing_argument_is_of_its_kind(annotation, example):
    scope = {}
    exec(f"from __future__ import annotations\ndef f(BLOCK: {annotation}): return BLOCK", scope)
    with pytest.raises(ArgumentSpecError) as caught:
        bind(scope["f"], [], lambda spec: spec, what="f")
    assert caught.value.hint == f"add --arg '{example}'"

"""From words to a plan: what is refused, with which text, and what the rest becomes."""

from __future__ import annotations

import pytest

from fuselab.errors import ArgumentSpecError, UnknownNameError, UsageError
from fuselab.experiment import load_registry
from fuselab.plan import parse_options, plan_of_run, select
from fuselab.records import Direction, RunMetadata, RunStatus

REGISTRY = load_registry(entry_points=())

OWN = "import torch\n\ndef twice(x, factor=2.0):\n    return x * factor\n"


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return f"{path}:twice"


@pytest.mark.parametrize(
    ("names", "options", "kind", "text"),
    [
        (["rmsnorm"], {}, UsageError, "did you mean 'rms_norm'"),
        (["rms_norm"], {"variants": ["compil"]}, UnknownNameError, "did you mean 'compile'"),
        (["rms_norm"], {"baseline": "egaer"}, UnknownNameError, "did you mean 'eager'"),
        (["rms_norm"], {"preset": "quik"}, UnknownNameError, "did you mean 'quick'"),
        (["rms_norm"], {"direction": "forwards"}, UnknownNameError, "did you mean 'forward'"),
        (["rms_norm"], {"shapes": ["4x"]}, ArgumentSpecError, "4x"),
        (["rms_norm"], {"dtypes": ["bf61"]}, ArgumentSpecError, "bf16"),
        (["rms_norm"], {"dtypes": ["i64"]}, UsageError, "floating"),
        (["rms_norm"], {"arguments": ["x=f32[2]"]}, UsageError, "--arg describes the arguments of your own function"),
        (["rms_norm"], {"options": ["casting"]}, UsageError, "is not NAME=VALUE"),
        (["rms_norm"], {"options": ["castin=llama"]}, UnknownNameError, "did you mean 'casting'"),
        (["rms_norm"], {"caches": "hot"}, UsageError, "--caches cold or warm"),
        (["rms_norm"], {"margin": 1.5}, UsageError, "--margin 0.01 is 1%"),
        (["rms_norm"], {"options": ["casting=lama"]}, UsageError, "'llama'"),
    ],
)
def test_bad_words_are_refused_with_the_way_out(names, options, kind, text):
    with pytest.raises(kind) as caught:
        select(names, REGISTRY, **options)
    assert text in str(caught.value)
    assert caught.value.exit_code == 2


def test_no_names_means_all_experiments_in_their_order():
    selection = select([], REGISTRY, preset="smoke")
    assert [p.experiment.name for p in selection.plans("cpu")] == [
        "layer_norm_gelu",
        "softmax_dropout",
        "rms_norm",
        "silu",
    ]


def test_shape_and_dtype_replace_the_preset_and_fill_in_options():
    (plan,) = select(["rms_norm"], REGISTRY, shapes=["64x256", "8x8"], dtypes=["f32", "bf16"], seed=7).plans("cpu")
    assert [(w.shape, w.dtype) for w in plan.workloads] == [
        ((64, 256), "f32"),
        ((64, 256), "bf16"),
        ((8, 8), "f32"),
        ((8, 8), "bf16"),
    ]
    assert all(w.seed == 7 and set(w.options) == set(plan.experiment.options) for w in plan.workloads)
    assert plan.preset is None
    assert plan.directions == (Direction.FORWARD, Direction.BACKWARD)


def test_the_baseline_is_always_part_of_the_group():
    (plan,) = select(["silu"], REGISTRY, variants=["compile"], preset="smoke").plans("cpu")
    assert plan.variants == ("eager", "compile")


def test_own_code_has_its_arguments_as_the_workload(own):
    (plan,) = select([own], REGISTRY, arguments=["x=f32[4,4]:requires_grad"]).plans("cpu")
    assert plan.experiment.target == own
    assert "x=f32[4,4]" in plan.workloads[0].label
    assert plan.reference.target == own


def test_own_code_refuses_shapes(own):
    with pytest.raises(UsageError, match="--shape, --dtype and --option are for registered experiments"):
        select([own], REGISTRY, arguments=["x=f32[4,4]"], shapes=["4x4"])


@pytest.mark.parametrize(
    ("texts", "options"),
    [
        ([], {}),
        (["p=0.5", "mask=causal", "fast=true", "n=3"], {"p": 0.5, "mask": "causal", "fast": True, "n": 3}),
        (["a=b=c"], {"a": "b=c"}),
    ],
)
def test_options(texts, options):
    parsed = parse_options(texts)
    assert parsed == options
    assert [type(v) for v in parsed.values()] == [type(v) for v in options.values()]


def metadata(plan, **changes):
    fields = {
        "id": "x/1",
        "experiment": plan.experiment.name,
        "description": "",
        "status": RunStatus.INTERRUPTED,
        "created_at": "",
        "device_type": "cpu",
        "plan": list(plan.workloads),
        "variants": list(plan.variants),
        "directions": list(plan.directions),
        "target": plan.experiment.target,
        "seed": plan.seed,
    }
    return RunMetadata(**{**fields, **changes})


def test_a_run_is_taken_up_with_the_plan_it_had():
    (plan,) = select(["silu"], REGISTRY, preset="smoke", seed=3).plans("cpu")
    again = plan_of_run(metadata(plan), REGISTRY)
    assert (again.workloads, again.variants, again.directions) == (plan.workloads, plan.variants, plan.directions)


def test_a_changed_file_is_not_taken_up(own):
    (plan,) = select([own], REGISTRY, arguments=["x=f32[4,4]:requires_grad"]).plans("cpu")
    with pytest.raises(UsageError, match="is not the file that run"):
        plan_of_run(metadata(plan, target_sha256="0" * 64), REGISTRY)

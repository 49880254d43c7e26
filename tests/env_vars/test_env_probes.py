"""Variables proven live: fields in two processes, effects in groups."""

from __future__ import annotations

import pytest

from fuselab.env_vars import probes
from fuselab.env_vars.catalogue import catalogue


def test_every_effect_is_of_a_catalogued_variable_once():
    names = [effect.name for effect in probes.EFFECTS]
    assert len(set(names)) == len(names) >= 40
    assert set(names) <= set(catalogue().by_name)
    assert len(probes.probed_names()) >= 300


@pytest.mark.slow
def test_fields_hold_what_the_catalogue_claims():
    variables = [variable for variable in catalogue().variable if probes._shows_field(variable)]
    fields = probes._probe_fields(variables, probes.Installation.here())
    wrong = [outcome for outcome in fields if outcome.passed is False]
    assert not wrong, wrong
    shown = [outcome for outcome in fields if outcome.passed]
    assert len(shown) >= 250
    assert sum(outcome.without != outcome.with_ for outcome in shown) >= 230


@pytest.mark.slow
@pytest.mark.parametrize("group", dict.fromkeys(effect.group for effect in probes.EFFECTS))
def test_effects_are_as_claimed(group):
    wanted = {effect.name for effect in probes.EFFECTS if effect.group == group}
    found = probes._probe_group(
        group, [effect for effect in probes.EFFECTS if effect.name in wanted], probes.Installation.here()
    )
    assert {outcome.name for outcome in found} == wanted
    for outcome in found:
        assert outcome.passed is not False, outcome
        if outcome.passed is None:  # a build without MKL, a torch without NumPy for the interpreter
            assert outcome.reason, outcome
    assert sum(outcome.passed is True for outcome in found) >= max(1, len(wanted) - 2)


def test_a_claim_that_does_not_hold_is_not_passed(monkeypatch):
    effect = next(e for e in probes.EFFECTS if e.name == "TORCH_HOME")
    for halves, passed in [
        (({"TORCH_HOME": "/a"}, {"TORCH_HOME": "/b/home/hub"}), True),
        (({"TORCH_HOME": "/b/home/hub"}, {"TORCH_HOME": "/b/home/hub"}), False),
        (({"TORCH_HOME": "/a"}, {"TORCH_HOME": "/a"}), False),
        (({"TORCH_HOME": "/a"}, {"!": "it was killed by SIGSEGV"}), None),
    ]:
        monkeypatch.setattr(probes, "_children", lambda *_, halves=halves: halves)
        (outcome,) = probes._probe_group("torch", [effect], probes.Installation.here())
        assert outcome.passed is passed
    assert "SIGSEGV" in outcome.reason


def test_a_field_that_does_not_follow_is_not_passed(monkeypatch):
    variable = catalogue().find("TORCHINDUCTOR_MAX_AUTOTUNE")
    for halves, passed in [
        (({variable.name: "False"}, {variable.name: "True"}), True),
        (({variable.name: "False"}, {variable.name: "False"}), False),
        (({variable.name: "True"}, {variable.name: "True"}), False),
        (({}, {"!": "no torch"}), False),
    ]:
        monkeypatch.setattr(probes, "_children", lambda *_, halves=halves: halves)
        (outcome,) = probes._probe_fields([variable], probes.Installation.here())
        assert outcome.passed is passed


def test_a_default_that_is_the_machines_own_is_no_wrong_claim(monkeypatch):
    variable = catalogue().find("TORCHINDUCTOR_COMPILE_THREADS")  # the number of cores, which may be the example's one
    for halves, passed in [
        (({variable.name: "1"}, {variable.name: "1"}), None),
        (({variable.name: "2"}, {variable.name: "1"}), True),
        (({variable.name: "2"}, {variable.name: "2"}), False),
    ]:
        monkeypatch.setattr(probes, "_children", lambda *_, halves=halves: halves)
        (outcome,) = probes._probe_fields([variable], probes.Installation.here())
        assert outcome.passed is passed
        assert bool(outcome.reason) is (passed is None)


def test_what_has_no_probe_says_so():
    (outcome,) = probes.run_probes(["NCCL_DEBUG"])
    assert outcome.passed is None
    assert "no probe" in outcome.reason

"""``--prove``: what is claimed to be removed is gone, with equal answers, and what does not hold is not offered.

With backend "eager" throughout: whether a break or a recompilation is gone, and whether answers are equal, does not
depend on it. The user's file is the same to the byte afterwards.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
from planting import PLANTED

from fuselab.diagnosis import diagnose
from fuselab.diagnosis.records import ProofStatus

pytestmark = pytest.mark.slow

REMOVED = [
    ("graph_breaks", "prints", {}, "reorder_formatted_print"),
    ("graph_breaks", "prints_a_tensor", {}, "reorder_print"),
    ("graph_breaks", "warns", {}, "reorder_warning"),
    ("graph_breaks", "item_in_arithmetic", {}, "drop_item"),
    ("graph_breaks", "item_in_branch", {}, "where"),
    ("graph_breaks", "item_then_branch", {}, "drop_item_where"),
    ("graph_breaks", "float_of_tensor", {}, "drop_item"),
    ("graph_breaks", "tensor_branch", {}, "where"),
    ("graph_breaks", "tensor_conditional", {}, "where"),
    ("graph_breaks", "early_return", {}, "where"),
    ("graph_breaks", "nonzero", {}, "capture_dynamic_shapes"),
    ("recompiles", "size", {"vary": ["x.0=4,8,16"]}, "mark_dynamic"),
    ("recompiles", "integer", {"arguments": ["x=f32[4,4]", "k=2"], "vary": ["k=2,3,4"]}, "compile_dynamic"),
    ("recompiles", "floating", {"arguments": ["x=f32[4,4]", "k=0.5"], "vary": ["k=0.1,0.2,0.3"]}, "tensor_argument"),
    ("recompiles", "Counter", {"calls": 5}, "buffer_attribute"),
    ("recompiles", "Decay", {"calls": 4}, "buffer_attribute"),
]


def proved(file, name, here, arguments=("x=f32[4,4]",), **options):
    path = PLANTED / f"{file}.py"
    before = path.read_bytes()
    options = {"calls": 2, **options} if "vary" not in options else options
    found = diagnose(f"{path}:{name}", list(arguments), prove=True, backend="eager", observe=here, **options)
    assert path.read_bytes() == before
    return found


@pytest.mark.parametrize(("file", "name", "options", "edit"), REMOVED)
def test_an_edit_that_is_offered_removes_what_it_claims(file, name, options, edit, here):
    found = proved(file, name, here, **options)
    proof = next(p for p in found.proofs if p.status is ProofStatus.PROVED)
    assert proof.edit == edit
    before, after = proof.before, proof.after
    assert before.graph_breaks + before.recompiles > 0
    assert (after.graph_breaks, after.recompiles, after.limits) == (0, 0, 0)
    assert proof.equality.equal
    assert proof.equality.compared > 0
    assert found.proved.after.graph_breaks + found.proved.after.recompiles == 0
    assert found.proved.equality.equal
    assert found.proved.remaining == []
    assert found.proved.before.pass_s > 0
    assert found.proved.after.pass_s > 0


def test_answers_that_differ_are_said_to_differ_and_not_offered(here):
    found = proved("unequal", "widens", here)
    (proof,) = [p for p in found.proofs if p.edit == "drop_item"]
    assert proof.status is ProofStatus.DIFFERENT
    assert "output is torch.float64" in proof.reason
    tried = [(p.edit, p.status, p.reason) for p in found.proofs]
    assert found.proved is not None, tried
    assert [e.name for e in found.proved.edits] == ["capture_scalars"], (
        tried
    )  # the next one, which keeps the float a float


def test_an_edit_that_prints_otherwise_is_not_offered(here):
    found = proved("unequal", "prints_a_number", here)
    assert all(p.status is not ProofStatus.PROVED for p in found.proofs if p.edit == "drop_item")
    assert any("it says" in p.reason for p in found.proofs)


def test_a_form_that_no_rewrite_knows_is_left_to_the_author(here):
    found = proved("graph_breaks", "misleading_branch", here)
    assert found.proofs == []
    assert found.proved is None
    assert found.findings[0].edits == []


def test_what_needs_judgement_is_not_tried(here):
    found = proved("graph_breaks", "explicit", here)
    assert found.proofs == []
    assert [e.judgement for e in found.findings[0].edits] == [True]


def test_a_condition_on_a_size_is_not_claimed_to_go(here):
    found = proved("recompiles", "specialised", here, vary=["x.0=8,10,16,20"])
    assert all(found.findings[p.finding].cause != "shape_condition" for p in found.proofs)


def test_several_edits_hold_together_and_make_one_patch(here, tmp_path, monkeypatch):
    source = (PLANTED / "several.py").read_bytes()
    (tmp_path / "several.py").write_bytes(source)
    monkeypatch.chdir(tmp_path)
    found = diagnose("several.py:several", ["x=f32[4,4]"], prove=True, backend="eager", observe=here, calls=2)
    assert found.proved.before.graph_breaks == 3
    assert found.proved.after.graph_breaks == 0
    assert found.proved.equality.equal
    assert (tmp_path / "several.py").read_bytes() == source
    subprocess.run(["patch", "-p0"], input=found.proved.patch.encode(), check=True, cwd=tmp_path, capture_output=True)
    again = diagnose("several.py:several", ["x=f32[4,4]"], backend="eager", observe=here, calls=2)
    assert again.clean
    assert "torch" in sys.modules


def test_an_edit_in_a_module_that_the_file_imports(here, tmp_path):
    (tmp_path / "fuselab_planted_helper.py").write_text(
        "def helped(x):\n    return x / x.abs().max().item()\n", encoding="utf-8"
    )
    (tmp_path / "main.py").write_text(
        "from fuselab_planted_helper import helped\n\ndef f(x):\n    return helped(x.sin()).cos()\n", encoding="utf-8"
    )
    found = diagnose(f"{tmp_path / 'main.py'}:f", ["x=f32[4,4]"], prove=True, backend="eager", observe=here, calls=2)
    assert found.findings[0].place.file == str(tmp_path / "fuselab_planted_helper.py")
    assert found.proved.after.graph_breaks == 0


def test_a_print_that_the_compiler_loses_is_noticed(here, tmp_path):
    """torch 2.11 to 2.15 lose a print that is moved out of an inlined function; one that keeps it may prove it."""
    text = "def helped(x):\n    print('helping')\n    return x + 1\n\n\ndef f(x):\n    return helped(x.sin()).cos()\n"
    (tmp_path / "inlined.py").write_text(text, encoding="utf-8")
    found = diagnose(f"{tmp_path / 'inlined.py'}:f", ["x=f32[4,4]"], prove=True, backend="eager", observe=here)
    (proof,) = found.proofs
    assert proof.edit == "reorder_print"
    if proof.status is not ProofStatus.PROVED:
        assert proof.status is ProofStatus.DIFFERENT
        assert "it does not say 'helping'" in proof.reason
        assert found.proved is None

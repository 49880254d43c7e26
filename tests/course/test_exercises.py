"""Every exercise: its solution is right, its starter file is not finished, its typical mistakes are named."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from wrong_answers import WRONG

from fuselab.course.catalogue import MISTAKES
from fuselab.course.exercises import EXERCISES, exercise_named
from fuselab.course.exercises.exercise import BASICS, OPTIMIZATION
from fuselab.course.files import material
from fuselab.errors import UnknownNameError

HERE = Path(__file__).parent
ANSWERS = [(name, number) for name, wrong in WRONG.items() for number in range(len(wrong))]


def judge_everything(path, device):
    """All in one process; what each verdict is, by key."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    finished = subprocess.run(
        [sys.executable, str(HERE / "judge_everything.py"), str(path), device],
        capture_output=True,
        text=True,
        timeout=280,
        env=environment,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    return judge_everything(tmp_path_factory.mktemp("judged") / "verdicts.json", "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("name", EXERCISES)
def test_a_solution_is_right(verdicts, name):
    verdict = verdicts[f"solution/{name}"]
    assert verdict["outcome"] == "right", verdict
    assert verdict["right"] == verdict["cases"] == len(EXERCISES[name].cases)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXERCISES)
def test_a_starter_file_says_which_line_is_missing(verdicts, name):
    verdict = verdicts[f"starter/{name}"]
    assert verdict["outcome"] == "unfinished"
    line = (material() / "exercises" / f"{name}.py").read_text().splitlines()[verdict["line"] - 1]
    assert "..." in line
    assert verdict["code"] == line.strip()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number"), ANSWERS)
def test_a_wrong_answer_is_named(verdicts, name, number):
    """The mistake comes first, and what is wrong is described without the line that mends it."""
    _, _, mistake = WRONG[name][number]
    verdict = verdicts[f"wrong/{name}/{number}"]
    assert verdict["outcome"] in ("wrong", "raised"), verdict
    assert verdict["findings"]
    assert [m["name"] for m in verdict["mistakes"]][:1] == [mistake], verdict
    assert all(m["title"] == MISTAKES[m["name"]].title for m in verdict["mistakes"])


@pytest.mark.slow
def test_what_is_said_of_where(verdicts):
    said = {key: [f["says"] for f in verdicts[key]["findings"]] for key in verdicts}
    assert said["wrong/strided_copy/3"][0] == "columns 64..99 of every row (180 of 500): never written"
    assert said["wrong/vector_add/0"][0] == "something was written outside of it: 84 elements after its end"
    assert said["wrong/rms_norm_forward/3"][0] == "every element: 13% too large"
    assert said["wrong/row_sum/6"][0] == "every element: of the wrong sign"
    assert said["wrong/layer_norm_forward/5"][0].startswith(
        "every element: each column is shifted by a number of its own"
    )


@pytest.mark.gpu
def test_on_a_gpu(tmp_path):
    """Native kernels: the solutions are right, and wrong answers that compile are not called right."""
    if not pytest.importorskip("torch").cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    found = judge_everything(tmp_path / "verdicts.json", "cuda")
    wrong = {key: v for key, v in found.items() if key.startswith("solution/") and v["outcome"] != "right"}
    assert not wrong
    passed = [key for key, v in found.items() if key.startswith("wrong/") and v["outcome"] == "right"]
    # On a GPU bf16 and f16 are numbers: what is computed in them may be near enough.
    assert all(WRONG[key.split("/")[1]][int(key.split("/")[2])][2] == "sixteen_bits" for key in passed)
    unnamed = [key for key, v in found.items() if key.startswith("wrong/") and not v["mistakes"] and key not in passed]
    assert len(unnamed) <= len(WRONG), unnamed


def test_at_least_sixteen_of_every_level():
    assert len(EXERCISES) >= 16
    assert {e.level for e in EXERCISES.values()} == {1, 2, 3, 4, 5}
    assert {e.notebook for e in EXERCISES.values()} == {BASICS, OPTIMIZATION}


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=str)
def test_declared_whole(exercise):
    """A case of 16 bits and one that is no power of two wide, three hints, known mistakes, both files."""
    assert len(exercise.hints) == len(set(exercise.hints)) == 3
    assert all(name.partition(":")[0] in MISTAKES for name in exercise.mistakes)
    assert len({wrong for _, _, wrong in WRONG[exercise.name]}) >= 3
    for folder in ("exercises", "solutions"):
        text = (material() / folder / f"{exercise.name}.py").read_text()
        assert f"def {exercise.call.split('(')[0]}(" in text
        if exercise.kernel:
            assert f"def {exercise.kernel}(" in text
    if exercise.needs_triton:
        widths = [case.shape[-1] for case in exercise.cases]
        assert any(width & (width - 1) for width in widths)
        assert exercise.name == "vector_add" or any(case.dtype == "bf16" for case in exercise.cases)


def test_no_file_without_an_exercise():
    for folder in ("exercises", "solutions"):
        assert {p.stem for p in (material() / folder).glob("*.py")} == set(EXERCISES)


def test_every_mistake_can_be_found():
    """None is in the catalogue that neither an exercise nor a trace can name."""
    source = Path(sys.modules["fuselab.course.catalogue"].__file__).with_name("mistakes.py").read_text()
    simulated = {name.partition(":")[0] for e in EXERCISES.values() for name in e.mistakes}
    assert [name for name in MISTAKES if name not in simulated and f'"{name}"' not in source] == []


def test_an_unknown_exercise_names_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'rms_norm_forward'"):
        exercise_named("rmsnorm_forward")


def test_the_page_lists_the_exercises():
    page = (HERE.parents[1] / "docs" / "exercises.md").read_text()
    assert f"has {len(EXERCISES)} kernels to write" in page
    for exercise in EXERCISES.values():
        assert f"| {exercise.title} | {exercise.level} | `{exercise.call}` |" in page


@pytest.mark.slow
def test_the_page_shows_what_is_printed(verdicts):
    import msgspec

    from fuselab.course.verdict import Verdict

    shown = str(msgspec.convert(verdicts["wrong/rms_norm_forward/3"], Verdict))
    assert shown in (HERE.parents[1] / "docs" / "exercises.md").read_text()

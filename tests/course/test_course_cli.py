"""``fuselab course``: copying, keeping a learner's work, the table of scores; and what the wheel carries."""

import json
import tomllib
from pathlib import Path

import pytest

from fuselab.cli import main
from fuselab.course.exercises import EXERCISES
from fuselab.course.files import copy_course, material

ROOT = Path(__file__).parents[2]


def test_copies_everything_and_keeps_what_was_changed(tmp_path, capfd):
    folder = tmp_path / "a folder" / "course"
    assert main(["course", str(folder)]) == 0
    assert "next: cd" in capfd.readouterr().err
    wanted = {p.relative_to(material()) for p in material().rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    there = {p.relative_to(folder) for p in folder.rglob("*") if p.is_file()}
    assert there == {p for p in wanted if ".ipynb_checkpoints" not in p.parts}
    assert {f"exercises/{name}.py" for name in EXERCISES} <= {p.as_posix() for p in there}

    mine = folder / "exercises" / "row_sum.py"
    mine.write_text("# my work\n")
    (folder / "exercises" / "vector_add.py").unlink()
    assert main(["course", str(folder), "--json"]) == 0
    copied = json.loads(capfd.readouterr().out)
    assert copied["kept"] == ["exercises/row_sum.py"]
    assert copied["written"] == ["exercises/vector_add.py"]
    assert mine.read_text() == "# my work\n"

    assert main(["course", str(folder), "--force"]) == 0
    assert mine.read_text() == (material() / "exercises" / "row_sum.py").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["course", "FILE"], 2, "is a file"),
        (["course", "FILE/below"], 2, "cannot be written"),
        (["course", "DIR", "row_sum"], 2, "fuselab course --check row_sum"),
        (["course", "--check", "row_sums"], 2, "did you mean 'row_sum'"),
        (["course", "--check", "row_sum"], 2, "there is no row_sum.py"),
        (["course", "--check"], 2, "`fuselab course DIR` copies the exercises"),
    ],
)
def test_bad_input(arguments, code, says, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("")
    assert main(arguments) == code
    assert says in " ".join(capfd.readouterr().err.split())


def test_not_into_its_own_source(capfd):
    assert main(["course", str(material()), "--force"]) == 2
    assert "where the course comes from" in " ".join(capfd.readouterr().err.split())


@pytest.mark.slow
def test_the_table_of_scores(tmp_path, monkeypatch, capfd):
    """One solved, one wrong, the rest not begun: those need no process."""
    copy_course(tmp_path)
    exercises = tmp_path / "exercises"
    (exercises / "block_choice.py").write_text((tmp_path / "solutions" / "block_choice.py").read_text())
    solution = (tmp_path / "solutions" / "rms_norm_forward.py").read_text()
    (exercises / "rms_norm_forward.py").write_text(solution.replace(" + eps)", ")"))
    monkeypatch.chdir(tmp_path)

    assert main(["course", "--check", "--device", "cpu"]) == 1
    printed = capfd.readouterr().out
    assert f"1 of {len(EXERCISES)} exercises solved" in printed
    assert "a normalisation without eps" in " ".join(printed.replace("│", " ").split())

    assert main(["course", "--check", "block_choice", "--device", "cpu"]) == 0
    capfd.readouterr()
    assert main(["course", "--check", ".", "rms_norm_forward", "--device", "cpu", "--json"]) == 1
    document = json.loads(capfd.readouterr().out)
    assert (document["solved"], document["of"]) == (0, 1)
    assert document["verdicts"][0]["mistakes"][0]["name"] == "eps_forgotten"


def test_the_wheel_carries_the_course():
    """What is copied lies within the package in a wheel, and the source archive has what the wheel is built from."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert build["wheel"]["force-include"]["notes/triton-gpu-optimization"] == "fuselab/course/material"
    assert "notes" in build["sdist"]["include"]
    files = (ROOT / "src" / "fuselab" / "course" / "files.py").read_text()
    assert 'here / "material"' in files

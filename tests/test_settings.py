"""Defaults from pyproject.toml."""

from __future__ import annotations

import pytest

from fuselab.errors import UnknownNameError, UsageError
from fuselab.settings import defaults_from_project

ALLOWED = {"run": frozenset({"preset", "seed", "out"}), "show": frozenset({"out"})}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("[tool.other]\nx = 1", {}),
        ("tool = 3", {}),
        ('[tool.fuselab]\npreset = "full"', {"run": {"preset": "full"}, "show": {}}),
        ('[tool.fuselab]\nout = "r"', {"run": {"out": "r"}, "show": {"out": "r"}}),
        ('[tool.fuselab]\nout = "r"\n[tool.fuselab.run]\nout = "q"', {"run": {"out": "q"}, "show": {"out": "r"}}),
    ],
)
def test_defaults(tmp_path, text, expected):
    (tmp_path / "pyproject.toml").write_text(text)
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert defaults_from_project(below, ALLOWED) == expected


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("[tool.fuselab", UsageError, "not valid TOML"),
        ("[tool]\nfuselab = 3", UsageError, "fuselab = 3 is not a table"),
        ("[tool.fuselab]\npresett = 1", UnknownNameError, "did you mean 'preset'"),
        ("[tool.fuselab.rum]\nseed = 1", UnknownNameError, "did you mean 'run'"),
        ("[tool.fuselab.run]\nsede = 1", UnknownNameError, "did you mean 'seed'"),
    ],
)
def test_mistakes_name_the_file_and_the_nearest_match(tmp_path, text, kind, message):
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(kind) as caught:
        defaults_from_project(tmp_path, ALLOWED)
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_bytes_that_are_no_text_are_no_toml(tmp_path):
    (tmp_path / "pyproject.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is not valid TOML"):
        defaults_from_project(tmp_path, ALLOWED)


def test_a_directory_of_that_name_is_passed_by(tmp_path):
    (tmp_path / "a" / "pyproject.toml").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[tool.fuselab]\npreset = "full"')
    assert defaults_from_project(tmp_path / "a", ALLOWED)["run"] == {"preset": "full"}

"""The catalogue against the installed torch and triton: every entry is read where it says, and nothing dead is."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from fuselab.env_vars.catalogue import SUBJECTS, Fight, Moment, catalogue, nearest_name
from fuselab.env_vars.installation import Installation, library_holds, names_in
from fuselab.env_vars.scan import ReadTime, scan_tree
from fuselab.errors import UnknownNameError
from fuselab.versions import release

OTHERS = [Path(p) for p in os.environ.get("FUSELAB_TEST_SITE_PACKAGES", "").split(os.pathsep) if p]
"""Site-packages of other releases to check the catalogue against as well."""

RENAMED = {"TORCHINDUCTOR_BENCHMARK_EPILOGUE_FUSION": "torch._inductor.config.benchmark_template_fusion"}
"""Fields that have another name from torch 2.15 on, of which the old one is an alias."""


@functools.cache
def installed(index):
    return Installation.here() if index == 0 else Installation.at(OTHERS[index - 1])


@functools.cache
def looked(installation):
    """Every variable looked for once: sources are parsed and libraries searched."""
    return {variable.name: installation.look(variable) for variable in catalogue().variable}


@functools.cache
def scanned(installation):
    """Everything that the sources read."""
    if installation is installed(0):
        command = [sys.executable, "-m", "fuselab.env_vars.scan"]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    reads = [read for package in ("torch", "triton") for read in scan_tree(installation.roots[package], [package])]
    return {"reads": msgspec.to_builtins(reads)}


@pytest.fixture(params=range(1 + len(OTHERS)), ids=lambda i: "here" if i == 0 else OTHERS[i - 1].parts[2])
def installation(request):
    return installed(request.param)


def test_it_is_large_and_complete():
    known = catalogue()
    assert len(known.variable) >= 400
    assert len(known.by_name) == len(known.variable)
    assert not set(known.by_name) & set(known.dead_by_name)
    assert {variable.subject for variable in known.variable} == set(SUBJECTS)
    for variable in known.variable:
        assert variable.does.endswith(".") or variable.does.endswith(")"), variable.name
        assert variable.expect.endswith("."), variable.name
        assert variable.type in ("bool", "int", "text", "path", "list", "choice"), variable.name
        assert variable.default, variable.name
        assert variable.example, variable.name
        assert variable.files, variable.name
        assert len(variable.does) < 160, variable.name


def test_every_entry_is_read_here_or_the_reason_is_its_release_or_build(installation):
    assert {"torch", "triton"} <= set(installation.versions)
    found, unsaid = 0, []
    for variable in catalogue().variable:
        presence = looked(installation)[variable.name]
        assert presence.found is not False, f"{variable.name}: {presence.reason}"
        found += presence.found is True
        if presence.found is None:
            unsaid.append((variable, presence.reason))
    assert found >= 350
    for variable, reason in unsaid:  # nothing is excused for another cause
        of_release = not installation.in_range(variable)
        assert of_release or all(".so" in file for file in variable.files), f"{variable.name}: {reason}"
        assert of_release or "+cpu" in installation.versions["torch"], f"{variable.name}: {reason}"


def test_an_entry_of_another_release_is_not_read_here(installation):
    for variable in catalogue().variable:
        if not installation.in_range(variable) and release(installation.versions["torch"]) >= (2, 11):
            reads = [r for file in variable.files if file.endswith(".py") for r in installation.reads(file)]
            assert variable.name not in {read.name for read in reads}, variable.name


def test_an_entry_that_is_not_there_is_found_out(tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "version.py").write_text("__version__ = '2.13.0'")
    config = tmp_path / "torch" / "_inductor" / "config.py"
    config.parent.mkdir()
    config.write_text("import os\n# TORCHINDUCTOR_MAX_AUTOTUNE\nx = 'TORCHINDUCTOR_MAX_AUTOTUNE'\n")
    presence = Installation.at(tmp_path).look(catalogue().find("TORCHINDUCTOR_MAX_AUTOTUNE"))
    assert presence.found is False  # the name is there, and nothing reads it
    assert "torch/_inductor/config.py" in presence.reason


def test_fields_and_moments_are_those_of_the_sources(installation):
    fields = 0
    for variable in catalogue().variable:
        reads = looked(installation)[variable.name].reads
        if variable.field:
            names = {variable.field, RENAMED.get(variable.name)}
            assert names & {read.field for read in reads} or not reads, variable.name
            fields += bool(reads)
        times = {read.time for read in reads}
        if variable.read is Moment.IMPORT and times == {ReadTime.CALL}:
            # read by a function that an import calls in another module: the entry has to name that import
            assert variable.before is not None, variable.name
        if variable.read in (Moment.COMPILE, Moment.LAUNCH, Moment.CALL, Moment.DECORATION) and reads:
            knob = (variable.field or "").startswith("triton.knobs")
            assert ReadTime.CALL in times or knob or variable.before, f"{variable.name}: {times}"
    assert fields >= 240


@pytest.mark.slow
def test_no_dead_variable_is_read(installation):
    """Sources of torch and triton are parsed, their libraries searched."""
    root = installation.roots["torch"]
    read = {read["name"] for read in scanned(installation)["reads"]}
    assert {"TORCHINDUCTOR_MAX_AUTOTUNE", "TRITON_CACHE_DIR"} <= read
    dead = set(catalogue().dead_by_name)
    assert not dead & read
    libraries = [*(root / "torch/lib").glob("*.so*"), *(installation.roots["triton"] / "triton/_C").glob("*.so")]
    prefixes = {re.match("[A-Z]+", name)[0] for name in dead} - {"CUDNN"}
    held = set()
    for library in libraries:
        if library.is_file() and not library.is_symlink():
            held |= names_in(library, prefixes)
    assert {"TORCH_SHOW_CPP_STACKTRACES", "DISABLE_MMA_V3"} <= held
    assert not dead & held


@pytest.mark.slow
def test_the_scanner_as_a_program():
    document = scanned(installed(0))
    assert document["catalogued_but_not_here"] == {}
    reads = {read["name"]: read for read in document["reads"]}
    assert reads["TORCHINDUCTOR_MAX_AUTOTUNE"]["field"] == "torch._inductor.config.max_autotune"
    assert reads["TORCHINDUCTOR_MAX_AUTOTUNE"]["time"] == "import"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" in document["not_catalogued"]
    assert not set(document["not_catalogued"]) & set(catalogue().by_name)


def test_each_fight_is_about_catalogued_variables():
    known = catalogue()
    for fight in known.fight:
        assert set(fight.when) <= set(known.by_name), fight.when
        assert len(fight.when) == 2


@pytest.mark.parametrize(
    ("when", "environ", "holds"),
    [
        ({"A": "1", "B": "0"}, {"A": "1", "B": "0"}, True),
        ({"A": "1", "B": "0"}, {"A": "1", "B": "1"}, False),
        ({"A": "1", "B": "0"}, {"A": "1"}, False),
        ({"A": "*", "B": "-"}, {"A": "x"}, True),
        ({"A": "*", "B": "-"}, {"A": "0"}, False),
        ({"A": "*", "B": "-"}, {"A": "x", "B": ""}, False),
        ({"A": "*", "B": "!="}, {"A": "1", "B": "2"}, True),
        ({"A": "*", "B": "!="}, {"A": "1", "B": "1"}, False),
    ],
)
def test_conditions_of_a_fight(when, environ, holds):
    assert Fight(when=when, why="").holds(environ) is holds


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("TORCHINDUCTOR_MAX_AUTOTUN", "TORCHINDUCTOR_MAX_AUTOTUNE"),
        ("TRITON_CACHEDIR", "TRITON_CACHE_DIR"),
        ("torch_log", "TORCH_LOGS"),
        ("MAX_AUTOTUNE", "TORCHINDUCTOR_MAX_AUTOTUNE"),
        ("XYZZY", None),
    ],
)
def test_the_nearest_name(wrong, nearest):
    assert nearest_name(wrong, catalogue()) == nearest
    with pytest.raises(UnknownNameError) as caught:
        catalogue().find(wrong)
    assert (nearest or "unknown") in caught.value.message


def test_a_dead_name_says_what_to_use():
    with pytest.raises(UnknownNameError) as caught:
        catalogue().find("TORCHINDUCTOR_TRACE")
    assert "no version" in caught.value.message
    assert "TORCH_COMPILE_DEBUG" in caught.value.hint


def test_libraries_are_searched_for_whole_names(tmp_path):
    library = tmp_path / "lib.so"
    library.write_bytes(b"\0LONG_OURS_NAME\0text with NAME=1 in it\0OURS_NAME_X\0\x01OTHER\0")
    assert library_holds(library, "LONG_OURS_NAME")
    assert library_holds(library, "OTHER")
    assert not library_holds(library, "OURS_NAME")  # the end of a longer name, the beginning of another
    assert not library_holds(library, "NAME")
    assert library_holds(library, "NAME", whole=False)
    assert not library_holds(library, "TEXT", whole=False)

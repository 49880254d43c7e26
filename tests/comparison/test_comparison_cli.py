"""``fuselab compare`` as it is called: exit codes, files, JSON, and the same as a function."""

from __future__ import annotations

import json
import re
import socket
from xml.etree import ElementTree as Xml

import comparison_factory as factory
import msgspec
import numpy as np
import pytest

import fuselab
from fuselab.cli import main
from fuselab.errors import UsageError
from fuselab.records import Correctness, RunStatus, Status


@pytest.fixture
def runs(tmp_path):
    def make(seed, **times):
        cells = factory.group(times, np.random.default_rng(seed), noise=0.001, drift=0.001)
        return factory.stored(tmp_path, cells).metadata().id

    return {
        "out": str(tmp_path),
        "base": make(1, eager=10, compile=8),
        "same": make(2, eager=10, compile=8),
        "slower": make(3, eager=10, compile=8.4),
    }


def call(runs, *words):
    return main(["compare", *words, "--out", runs["out"]])


def test_a_run_with_itself_exits_with_0(runs, capsys):
    assert call(runs, runs["base"], runs["base"], "--fail-over", "2%") == 0
    assert "no regression past 2%" in capsys.readouterr().out


def test_a_variant_that_is_five_per_cent_slower_measured_together_exits_with_1(tmp_path, runs, capsys):
    cells = factory.group({"eager": 10, "compile": 10.5}, np.random.default_rng(5))
    name = factory.stored(tmp_path, cells).metadata().id
    assert call(runs, name, "--variants", "eager,compile", "--fail-over", "2%") == 1
    assert "1 regression past 2%" in capsys.readouterr().out
    assert call(runs, name, "--variants", "eager,compile", "--fail-over", "10%") == 0
    assert call(runs, name, "--variants", "eager,compile") == 0, "without a threshold nothing fails"
    assert call(runs, name, "--variants", "compile,eager", "--fail-over", "2%") == 0, "the other way round it is faster"


def test_runs_measured_apart(runs, capsys):
    assert call(runs, runs["base"], runs["same"], "--fail-over", "2%") == 0
    assert call(runs, runs["base"], runs["slower"], "--fail-over", "2%") == 1
    shown = capsys.readouterr().out
    assert "not measured together" in shown
    assert "+5" in shown


def test_a_cell_that_is_wrong_now_exits_with_1_whatever_its_speed(tmp_path, runs, capsys):
    cells = factory.changed(
        factory.group({"eager": 10, "compile": 2}, np.random.default_rng(6)),
        "compile",
        status=Status.WRONG,
        correctness=Correctness(correct=False, reason="output is zero"),
    )
    wrong = factory.stored(tmp_path, cells).metadata().id
    assert call(runs, runs["base"], wrong, "--fail-over", "50%") == 1
    shown = capsys.readouterr().out
    assert "1 cell broken" in shown
    assert "output is zero" in shown


def test_a_gate_that_has_seen_nothing_does_not_pass(tmp_path, runs, capsys):
    cells = factory.group({"eager": 1, "compile": 1}, np.random.default_rng(7), device="NVIDIA H200")
    gpu = factory.stored(tmp_path, cells, environment=factory.H200, device_type="cuda").metadata().id
    assert call(runs, runs["base"], gpu, "--fail-over", "2%") == 2
    said = capsys.readouterr()
    assert "nothing could be judged" in said.err
    assert "not comparable" in said.out
    assert "NVIDIA H200" in said.out
    assert call(runs, runs["base"], gpu) == 0, "shown, and nothing claimed"


def test_wrong_calls_exit_with_2_and_name_the_way_out(runs, capsys):
    for words, said in (
        ([runs["base"]], "nothing to compare"),
        ([runs["base"], runs["same"], "--fail-over", "2"], "write 2% if that is meant"),
        ([runs["base"], "--variants", "eager"], "names one variant"),
        ([runs["base"], "--variants", "eager,triton"], "unknown variant 'triton'"),
    ):
        assert call(runs, *words) == 2
        assert said in capsys.readouterr().err


def test_json_has_the_whole_and_the_answer(runs, capsys):
    assert call(runs, runs["base"], runs["slower"], "--fail-over", "2%", "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["regressions"], document["judged"], document["schema_version"]) == (1, 2, 1)
    cell = document["comparisons"][0]["cells"][1]
    assert (cell["judgement"], cell["pairing"]) == ("regression", "apart")
    assert cell["change"]["change"] == pytest.approx(0.05, abs=0.005)


def test_files_for_people_and_for_build_servers(tmp_path, runs, capsys):
    page, xml = tmp_path / "page.html", tmp_path / "junit.xml"
    assert call(runs, runs["base"], runs["slower"], "--fail-over", "2%", "--html", str(page), "--junit", str(xml)) == 1
    suite = Xml.fromstring(xml.read_text()).find("testsuite")
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("2", "1", "0")
    (failure,) = suite.iterfind("testcase/failure")
    assert failure.get("message").startswith("regression: +5")
    assert "1 regression past 2%" in page.read_text()


HOME = "/home/ada/secret-project"
PLANTED = f"ada@gpu17.example.org: {HOME}/model.py:3 on {socket.gethostname()}, /data/team/lovelace/x.py"
SECRETS = ("ada", "secret-project", "gpu17.example.org", "lovelace", socket.gethostname())


@pytest.fixture
def told(tmp_path):
    """Two runs below somebody's home whose every free word says whose they are."""
    root, made = tmp_path / "home" / "ada", []
    for seed, driver in ((1, "580.1"), (2, "580.2")):
        cells = factory.group({"eager": 10, "compile": 8}, np.random.default_rng(seed))
        cells = factory.changed(cells, "compile", status=Status.ERROR, reason=f"boom {PLANTED}") if seed == 2 else cells
        around = msgspec.structs.replace(
            factory.CPU,
            driver=driver,
            cpu=f"processor {seed} {PLANTED}",
            compiler=f"{HOME}/bin/g++ {seed}",
            variables={"TRITON_CACHE_DIR": f"{HOME}/cache{seed}"},
        )
        made.append(
            factory.stored(
                root, cells, environment=around, target=f"{HOME}/m{seed}.py:f", error=PLANTED, status=RunStatus.FAILED
            )
        )
    return made


def named(text):
    return [s for s in SECRETS if re.search(rf"(?<![A-Za-z0-9]){re.escape(s)}(?![A-Za-z0-9])", text)]


def test_redacted_nothing_says_whose_machine_it_was(tmp_path, told, capsys):
    a, b = (run.path for run in told)
    page, xml = tmp_path / "page.html", tmp_path / "junit.xml"
    words = ["compare", str(a), str(b), "--html", str(page), "--junit", str(xml)]

    def everything(*more):
        assert main([*words, *more]) == 0
        table = capsys.readouterr().out
        assert main([*words, *more, "--json"]) == 0
        document = capsys.readouterr().out
        return {"table": table, "json": document, "page": page.read_text(), "junit": xml.read_text()}

    plain, mailed = everything(), everything("--redact")
    assert all("ada" in named(text) for text in plain.values()), "or this test looks at nothing"
    for kind, text in mailed.items():
        assert named(text) == [], kind
        assert "boom" in text, kind
    assert str(tmp_path) not in mailed["json"]
    assert "redacted: without paths, host and user names" in mailed["page"]
    assert "redacted: without" not in plain["page"]
    before, after = json.loads(plain["json"]), json.loads(mailed["json"])
    assert (before["redacted"], after["redacted"]) == (False, True)
    assert [one["name"] for one in after["environment"]] == [one["name"] for one in before["environment"]]
    cells = [document["comparisons"][0]["cells"] for document in (before, after)]
    assert [[c["judgement"], c["change"]] for c in cells[0]] == [[c["judgement"], c["change"]] for c in cells[1]]


def test_redacted_as_a_function(told):
    a, b = (str(run.path) for run in told)
    assert named(fuselab.compare(a, b, redact=True).page()) == []
    assert "ada" in named(fuselab.compare(a, b).page())


def test_the_function_displays_itself(runs):
    found = fuselab.compare(runs["base"], runs["slower"], fail_over="2%", out=runs["out"])
    assert [cell.new.variant for cell in found.failures] == ["compile"]
    assert repr(found) == "B against A: 1 regression past 2%; 1 equivalent"
    bundle = found._repr_mimebundle_([], [])
    assert "regression" in bundle["text/plain"]
    assert "<pre" in bundle["text/html"]
    assert found.document()["regressions"] == 1
    with pytest.raises(UsageError):
        fuselab.compare(runs["base"], out=runs["out"])

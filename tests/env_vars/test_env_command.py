"""``fuselab env`` from the command line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from fuselab.cli import main
from fuselab.env_vars.catalogue import catalogue


def test_the_list_as_json_has_this_machines_values_masked(capfd, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_REDIS_URL", "redis://me:swordfish@cache:6379")
    monkeypatch.setenv("TRITON_CACHE_DIR", "/some/where")
    monkeypatch.setenv("HF_TOKEN", "hf_aB3dE5gH7jK9mN1p")
    assert main(["env", "--json"]) == 0
    text = capfd.readouterr().out
    variables = {variable["name"]: variable for variable in json.loads(text)["variables"]}
    assert len(variables) >= 150
    assert variables["TRITON_CACHE_DIR"]["value"] == "/some/where"
    assert "swordfish" not in text
    assert "HF_TOKEN" not in text
    assert variables["TORCHINDUCTOR_REDIS_URL"]["value"] == "redis://<redacted>@cache:6379"
    wanted = {"does", "type", "default", "field", "read", "since", "example", "expect", "files", "value", "read_here"}
    assert all(wanted <= set(variable) for variable in variables.values())


def test_one_variable_has_its_line_here(capfd, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_MAX_AUTOTUNE", "1")
    assert main(["env", "torchinductor_max_autotune"]) == 0
    shown = capfd.readouterr().out
    for words in ("TORCHINDUCTOR_MAX_AUTOTUNE", "torch._inductor.config.max_autotune", "torch/_inductor/config.py:"):
        assert words in shown
    assert main(["env", "TORCHINDUCTOR_MAX_AUTOTUNE", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["value"] == "1"
    assert document["where"][0].startswith("torch/_inductor/config.py:")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["TORCHINDUCTOR_MAX_AUTOTUN"], "did you mean 'TORCHINDUCTOR_MAX_AUTOTUNE'?"),
        (["train.py"], "fuselab env --set train.py"),
        (["TORCHINDUCTOR_TRACE"], "use TORCH_COMPILE_DEBUG=1"),
        (["--set", "--dead"], "give one of them"),
        (["--dead", "TORCH_LOGS"], "one too many"),
        (["--set", "nowhere.py"], "nowhere.py cannot be read"),
    ],
)
def test_bad_words_exit_2(arguments, words, capfd):
    assert main(["env", *arguments]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert words in " ".join(captured.err.split())


@pytest.mark.parametrize("arguments", [[], ["--dead"]])
@pytest.mark.parametrize("width", [60, 80, 110, 160])
def test_words_are_not_cut_in_two_where_names_leave_little_room(arguments, width, capfd, monkeypatch):
    """At 80 columns, which is what a pipe has, the explanations had 14 beside the longest name."""
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["env", *arguments]) == 0
    lines = capfd.readouterr().out.splitlines()
    known = catalogue()
    texts = [e.use for e in known.dead] if arguments else [v.does for v in known.variable]
    words = {word for text in texts for word in text.split() if len(word) < 40}
    shown = {word for line in lines for word in line.split()}
    assert words <= shown


def test_what_is_set_and_what_is_wrong(capfd, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_TRACE", "1")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("TRITON_ALWAYS_COMPILE", "1")
    assert main(["env", "--set"]) == 0
    shown = " ".join(capfd.readouterr().out.split())
    assert "no torch and no triton reads TORCHINDUCTOR_TRACE" in shown
    assert "interpreted kernels are not compiled" in shown
    assert main(["env", "--set", "--json"]) == 0
    kinds = {finding["kind"] for finding in json.loads(capfd.readouterr().out)["findings"]}
    assert kinds >= {"read by nothing", "contradiction"}


def test_a_script_by_name(tmp_path, capfd):
    path = tmp_path / "train.py"
    path.write_text("import os, torch\nos.environ['TORCH_LOGS'] = 'output_code'\n")
    assert main(["env", "--set", str(path)]) == 0
    shown = " ".join(capfd.readouterr().out.split())
    assert "train.py:2: TORCH_LOGS is set after the import of torch" in shown
    assert "set_logs" in shown


def test_the_dead_and_the_table(capfd):
    assert main(["env", "--dead", "--json"]) == 0
    dead = {entry["name"]: entry for entry in json.loads(capfd.readouterr().out)["dead"]}
    assert len(dead) >= 60
    assert all(entry["use"] for entry in dead.values())
    assert main(["env", "--dead"]) == 0
    assert "TORCHDYNAMO_CACHE_SIZE_LIMIT" in capfd.readouterr().out
    assert main(["env"]) == 0
    shown = capfd.readouterr().out
    assert "TRITON_INTERPRET" in shown
    assert "set here" in shown


@pytest.mark.parametrize("arguments", [["env"], ["env", "TORCH_LOGS"], ["env", "--set"], ["env", "--dead"]])
def test_no_torch_is_imported(arguments):
    code = (
        "import sys\nfrom fuselab.cli import main\ncode = main(sys.argv[1:])\n"
        "loaded = {'torch', 'triton'} & set(sys.modules)\nassert code == 0, code\nassert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_probe_from_the_command_line(capfd):
    assert main(["env", "TORCHINDUCTOR_MAX_AUTOTUNE", "--probe", "--json"]) == 0
    (outcome,) = json.loads(capfd.readouterr().out)["outcomes"]
    assert main(["env", "NCCL_DEBUG", "--probe"]) == 0
    assert "not here" in capfd.readouterr().out
    assert (outcome["without"], outcome["with"], outcome["passed"]) == ("False", "True", True)

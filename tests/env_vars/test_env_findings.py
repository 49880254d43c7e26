"""What is set and what is wrong with it: in an environment, in a script, in a notebook, in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from fuselab.env_vars.findings import Kind, environment_at_start, report_of
from fuselab.env_vars.installation import Installation
from fuselab.env_vars.script import BY_DYNAMO, BY_TORCH, report_of_script
from fuselab.errors import UsageError


def kinds(environ):
    return [(finding.kind, finding.names) for finding in report_of(environ).findings]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"TORCHINDUCTOR_MAX_AUTOTUNE": "1"}, []),
        ({"HOME": "/root", "EDITOR": "vi"}, []),
        ({"TORCHINDUCTOR_MAX_AUTOTUNE": "true"}, [(Kind.MISREAD, ("TORCHINDUCTOR_MAX_AUTOTUNE",))]),
        ({"TORCHDYNAMO_SUPPRESS_ERRORS": "0"}, [(Kind.MISREAD, ("TORCHDYNAMO_SUPPRESS_ERRORS",))]),
        ({"TORCHINDUCTOR_SIZE_ASSERTS": "off"}, []),
        ({"TORCHINDUCTOR_TRACE": "1"}, [(Kind.DEAD, ("TORCHINDUCTOR_TRACE",))]),
        ({"TORCHINDUCTOR_NO_SUCH_THING": "1"}, [(Kind.UNKNOWN, ("TORCHINDUCTOR_NO_SUCH_THING",))]),
        ({"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}, []),  # not catalogued, and read
        ({"TRITON_PREFER_TMEM_16x256_LAYOUT": "1"}, None),
        (
            {"TRITON_INTERPRET": "1", "TRITON_ALWAYS_COMPILE": "1"},
            [(Kind.FIGHT, ("TRITON_INTERPRET", "TRITON_ALWAYS_COMPILE"))],
        ),
    ],
)
def test_findings_of_an_environment(environ, expected):
    if expected is not None:
        assert kinds(environ) == expected


def test_a_fight_says_both_values():
    (finding,) = report_of({"MKL_NUM_THREADS": "1", "OMP_NUM_THREADS": "4"}).findings
    assert "MKL_NUM_THREADS=1 with OMP_NUM_THREADS=4" in finding.message


SCRIPT = """\
import os
os.environ["TRITON_INTERPRET"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "2")
import torch
os.environ["TORCHINDUCTOR_MAX_AUTOTUNE"] = "1"
os.environ["TORCH_LOGS"] = "output_code"
os.environ.update({"MKL_NUM_THREADS": "2"}, TORCHINDUCTOR_CACHE_DIR="cache")
model = torch.compile(torch.nn.Linear(2, 2))
os.environ["TORCHINDUCTOR_SIZE_ASSERTS"] = "0"
os.environ["TRITON_CACHE_DIR"] = "there"
x = torch.ones(2, device="cuda")
os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
os.putenv("TORCHINDUCTOR_TRACE", "1")
"""


def test_a_script_is_judged_line_by_line(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    report = report_of_script(path, Installation.here())
    assert [(s.where, s.name) for s in report.settings][:3] == [
        ("train.py:2", "TRITON_INTERPRET"),
        ("train.py:3", "OMP_NUM_THREADS"),
        ("train.py:5", "TORCHINDUCTOR_MAX_AUTOTUNE"),
    ]
    late = {f.names[0]: f.where for f in report.findings if f.kind is Kind.LATE}
    assert late == {
        "TORCH_LOGS": "train.py:6",
        "MKL_NUM_THREADS": "train.py:7",
        "TORCHINDUCTOR_SIZE_ASSERTS": "train.py:9",
        "PYTORCH_CUDA_ALLOC_CONF": "train.py:12",
    }
    assert [f.where for f in report.findings if f.kind is Kind.DEAD] == ["train.py:13"]


def test_a_notebook_is_read_cell_by_cell(tmp_path):
    path = tmp_path / "n.ipynb"
    cells = [
        "%env TRITON_INTERPRET=1\nimport triton",
        "# words",
        "!ls\nimport os\nos.environ['TRITON_INTERPRET'] = '1'",
    ]
    document = {"cells": [{"cell_type": "code", "source": text.splitlines(keepends=True)} for text in cells]}
    path.write_text(json.dumps(document))

    report = report_of_script(path, Installation.here())
    assert [s.where for s in report.settings] == ["cell 1", "cell 3:3"]
    assert [(f.kind, f.where) for f in report.findings] == [(Kind.LATE, "cell 3:3")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [("a.py", "def", "a.py:1"), ("b.ipynb", "{}", "no notebook"), ("c.py", None, "cannot be read")],
)
def test_what_cannot_be_looked_through_is_said(tmp_path, name, text, message):

    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=message):
        report_of_script(path, Installation.here())


def test_what_the_process_began_with(tmp_path):
    file = tmp_path / "environ"
    file.write_bytes(b"A=1\0B=x=y\0C=\0")
    assert environment_at_start(file) == {"A": "1", "B": "x=y", "C": ""}
    assert environment_at_start(tmp_path / "none") is None


@pytest.mark.slow
def test_this_process_is_judged_by_what_it_imported():
    code = """
import json, os, sys
import torch, torch._dynamo, torch._inductor.config
import fuselab
os.environ["TORCHINDUCTOR_MAX_AUTOTUNE"] = "1"
os.environ["TORCHINDUCTOR_FREEZING"] = "1"
torch._inductor.config.freezing = True
os.environ["OMP_NUM_THREADS"] = "2"
os.environ["TRITON_KERNEL_DUMP"] = "0"
late = [f.names[0] for f in fuselab.env.check().findings if f.kind.value == "too late"]
brought = sorted(sys.modules)
print("@@" + json.dumps([late, brought]))
"""
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("TORCH", "TRITON", "OMP", "MKL"))
    }
    environ["TORCHINDUCTOR_NAN_ASSERTS"] = "1"  # was there from the beginning
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, done.stderr
    late, brought = json.loads(done.stdout.split("@@")[1])
    assert late == ["OMP_NUM_THREADS", "TORCHINDUCTOR_MAX_AUTOTUNE"]  # freezing did arrive
    assert set(BY_TORCH) | set(BY_DYNAMO) <= set(brought)  # what scripts are judged by

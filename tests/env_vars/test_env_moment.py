"""fuselab.env: sets when it works, refuses when it cannot, puts everything back."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import fuselab
from fuselab.env_vars import TooLateError
from fuselab.errors import UnknownNameError, UsageError


def in_child(code, **environ):
    """Run code in a fresh process; what it puts into ``seen`` comes back."""
    program = f"import json, os, sys\nimport fuselab\nseen = {{}}\n{code}\nprint('@@' + json.dumps(seen))"
    clean = {name: v for name, v in os.environ.items() if not name.startswith(("TORCH", "TRITON", "OMP_", "MKL_"))}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        env={**clean, **environ},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.split("@@")[1])


def test_before_the_import_the_environment_is_enough(monkeypatch):
    monkeypatch.delenv("TRITON_KERNEL_DUMP", raising=False)
    monkeypatch.setenv("TRITON_DUMP_DIR", "before")
    with fuselab.env(TRITON_KERNEL_DUMP=True, TRITON_DUMP_DIR="meanwhile"):
        assert os.environ["TRITON_KERNEL_DUMP"] == "1"
        assert os.environ["TRITON_DUMP_DIR"] == "meanwhile"
    assert "TRITON_KERNEL_DUMP" not in os.environ
    assert os.environ["TRITON_DUMP_DIR"] == "before"


def test_none_takes_a_variable_away(monkeypatch):
    monkeypatch.setenv("TRITON_DUMP_DIR", "before")
    with fuselab.env(TRITON_DUMP_DIR=None):
        assert "TRITON_DUMP_DIR" not in os.environ
    assert os.environ["TRITON_DUMP_DIR"] == "before"


def test_it_puts_back_after_an_error(monkeypatch):
    monkeypatch.delenv("TRITON_KERNEL_DUMP", raising=False)
    with pytest.raises(ZeroDivisionError), fuselab.env(TRITON_KERNEL_DUMP=1):
        raise ZeroDivisionError
    assert "TRITON_KERNEL_DUMP" not in os.environ


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"TORCHINDUCTOR_MAX_AUTOTUN": 1}, UnknownNameError, "did you mean 'TORCHINDUCTOR_MAX_AUTOTUNE'"),
        ({"TORCHINDUCTOR_TRACE": 1}, UnknownNameError, "TORCH_COMPILE_DEBUG"),
        ({"TRITON_KERNEL_DUMP": ["1"]}, UsageError, "holds text"),
    ],
)
def test_what_cannot_be_set_is_refused_and_nothing_changes(settings, error, words, monkeypatch):
    before = dict(os.environ)
    with pytest.raises(error) as caught, fuselab.env(TRITON_DUMP_DIR="x", **settings):
        pass
    assert words in str(caught.value)
    assert dict(os.environ) == before


@pytest.mark.slow
def test_after_the_import_fields_are_set_and_put_back():
    seen = in_child(
        """
import torch, torch._dynamo, torch._inductor.config as config, torch._dynamo.config as dynamo, triton
config.freezing = True
def now():
    return [config.max_autotune, config.freezing, config.trace.enabled, config.trace.provenance_tracking_level,
            dynamo.disable, triton.knobs.runtime.debug, triton.knobs.compilation.dump_ir, config.compile_threads,
            torch.compiler.config.force_disable_caches, "TORCHINDUCTOR_MAX_AUTOTUNE" in os.environ]
seen["before"] = now()
with fuselab.env(TORCHINDUCTOR_MAX_AUTOTUNE=1, TORCHINDUCTOR_FREEZING=0, TORCH_COMPILE_DEBUG=1, TORCH_COMPILE_DISABLE=1,
                 TRITON_DEBUG=1, TRITON_KERNEL_DUMP=1, TORCHINDUCTOR_COMPILE_THREADS=1,
                 TORCHINDUCTOR_FORCE_DISABLE_CACHES=1):
    seen["meanwhile"] = now()
seen["after"] = now()
"""
    )
    threads = seen["before"][7]
    assert seen["before"] == [False, True, False, 0, False, False, False, threads, False, False]
    assert seen["meanwhile"] == [True, False, True, 1, True, True, True, 1, True, True]
    assert seen["after"] == seen["before"]


@pytest.mark.slow
def test_a_setting_changes_what_torch_does():
    seen = in_child(
        """
import logging, torch
def graphs():
    torch._dynamo.reset()
    found = []
    torch.compile(lambda x: x + 1, backend=lambda graph, _: found.append(1) or graph.forward)(torch.ones(2))
    return len(found)
level = lambda: logging.getLogger("torch._dynamo").getEffectiveLevel()
seen["before"] = [graphs(), level()]
with fuselab.env(TORCH_COMPILE_DISABLE=1, TORCH_LOGS="+dynamo"):
    seen["meanwhile"] = [graphs(), level()]
seen["after"] = [graphs(), level()]
torch._logging.set_logs(inductor=logging.INFO)
with fuselab.env(TORCH_LOGS="+dynamo"):
    pass
seen["kept"] = logging.getLogger("torch._inductor").getEffectiveLevel()
"""
    )
    assert seen["before"] == seen["after"] == [1, 30]
    assert seen["meanwhile"] == [0, 10]
    assert seen["kept"] == 20


@pytest.mark.slow
def test_what_was_read_for_good_is_refused_with_the_way_out():
    seen = in_child(
        """
import torch, torch._inductor.async_compile, triton
from fuselab.env_vars import TooLateError
before = dict(os.environ)
def refused(**settings):
    try:
        with fuselab.env(**settings):
            return "no"
    except TooLateError as error:
        assert dict(os.environ) == before
        return str(error)
for name in ("TRITON_INTERPRET", "OMP_NUM_THREADS", "TORCH_TRACE", "ATEN_CPU_CAPABILITY", "CUDA_VISIBLE_DEVICES",
             "PTXAS_OPTIONS"):
    seen[name] = refused(**{name: 1})
torch._inductor.async_compile._pool_set.add(object())
seen["worker"] = refused(TRITON_KERNEL_DUMP=1)
seen["here"] = refused(TRITON_KERNEL_DUMP=1, TORCHINDUCTOR_COMPILE_THREADS=1)
seen["passed on"] = refused(TRITON_CACHE_DIR="there")
torch._inductor.async_compile._pool_set.clear()
import torch._inductor.config as config
from fuselab.errors import UsageError
try:
    with fuselab.env(TORCHINDUCTOR_COMPILE_THREADS="many"):
        pass
except UsageError as error:
    seen["many"] = error.message
seen["left"] = [config.compile_threads >= 1, dict(os.environ) == before, "fuselab_fresh_configuration" in sys.modules]
"""
    )
    assert "TORCHINDUCTOR_COMPILE_THREADS=many" in seen["many"]
    assert seen["left"] == [True, True, False]
    assert "triton is imported" in seen["TRITON_INTERPRET"]
    assert "start the process with TRITON_INTERPRET=1" in seen["TRITON_INTERPRET"]
    assert "torch.set_num_threads(1)" in seen["OMP_NUM_THREADS"]
    assert "torch is imported" in seen["TORCH_TRACE"]
    assert "may have read it since" in seen["ATEN_CPU_CAPABILITY"]
    assert "triton is imported" in seen["PTXAS_OPTIONS"]
    assert seen["CUDA_VISIBLE_DEVICES"] == "no"  # CUDA is not in use
    assert "compile workers" in seen["worker"]
    assert seen["here"] == seen["passed on"] == "no"


def test_too_late_is_one_of_our_errors():
    assert issubclass(TooLateError, UsageError)
    assert TooLateError("x").exit_code == 2


def test_it_says_what_it_is():
    assert "fuselab.env(NAME=value" in repr(fuselab.env)

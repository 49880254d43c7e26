"""What the labs of the first notebook need: variables, a machine without a compiler, a package and its proof."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fuselab.course.display import Rows, Shown, from_terminal, plain_paths, quietly

if TYPE_CHECKING:
    from fuselab.startup.records import CompileCost

__all__ = ["break_even", "proof_of_start", "script_findings", "variables", "without_compiler"]

WAIT_S = 120.0
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def variables(*names: str) -> Rows:
    """What each variable does and until when it may be set.

    Raises:
        UnknownNameError: no torch or triton reads one of them.
    """
    from fuselab.env_vars import catalogue

    known = catalogue()
    found = [known.find(name) for name in names]
    rows = [(v.name, v.does, v.read.value, ", ".join(v.too_late_after()) or "at any time") for v in found]
    return Rows(("variable", "what it does", "read", "set it before"), rows)


def script_findings(path: str) -> Shown:
    """What is wrong with the variables that a script sets; the script is read as text and never run."""
    from fuselab.env_vars.installation import Installation
    from fuselab.env_vars.script import report_of_script
    from fuselab.report.env import report_view

    return from_terminal(report_view(report_of_script(Path(path), Installation.here())))


def break_even(cost: CompileCost) -> Rows:
    """After how many calls each way of starting has paid, in words."""
    from fuselab.report.break_even import sentence

    rows = [(found.start.value, found.against.value, sentence(found)) for found in cost.break_even]
    return Rows(("start", "against", "has paid after"), rows)


def without_compiler() -> Shown:
    """What a run says on a machine without a C++ compiler: a process is started with an empty ``PATH``."""
    environ = {name: value for name, value in os.environ.items() if name not in ("CC", "CXX", "FORCE_COLOR")}
    environ |= {"NO_COLOR": "1", "TERM": "dumb"}
    with tempfile.TemporaryDirectory(prefix="fuselab-course-") as empty:
        environ["PATH"] = empty
        command = [sys.executable, "-m", "fuselab", "run", "silu", "--device", "cpu", "--preset", "smoke"]
        ran = subprocess.run(
            command, env=environ, cwd=empty, capture_output=True, text=True, timeout=WAIT_S, check=False
        )
    said = plain_paths(_CONTROL.sub("", ran.stderr).strip())
    text = f"fuselab run silu, with an empty PATH\n{said}\nexit code {ran.returncode}"
    return from_terminal(text)


def proof_of_start(target: str, arguments: Sequence[str] = ()) -> Shown:
    """Pack a function's compiled code, and prove in fresh processes that a start from it compiles nothing.

    Args:
        target: ``FILE.py:NAME``.
        arguments: as for ``--arg``; without any the file's ``get_inputs()``.
    """
    from fuselab.deploy import pack, verify
    from fuselab.deploy.manifest import Reference
    from fuselab.experiment import load_registry
    from fuselab.plan import select
    from fuselab.report.pack import proof_view

    selection = select([target], load_registry(), arguments=list(arguments), variants=["compile"])
    (plan,) = selection.plans("cpu")
    reference = Reference(name=plan.reference.name, target=plan.reference.target, arguments=plan.reference.arguments)
    with tempfile.TemporaryDirectory(prefix="fuselab-course-") as folder, quietly():
        made = Path(folder) / "lesson.pack"
        pack(reference, plan.workloads, made, device_type="cpu", aoti=False)
        proof = verify(made, repeats=1)
    return from_terminal(proof_view(proof))

"""Graph breaks, recompilations and failures in one line each, from the structured trace. Pure: records in, text out."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fuselab.capture.provenance import user_line

__all__ = ["Phases", "failure", "graph_break", "recompile"]

_PLACE = re.compile(r"^Graph break in user code at (?P<file>.+):(?P<line>\d+)\s*$", re.MULTILINE)
_REASON = re.compile(
    r"^Graph Break Reason: (?P<first>.*)\n(?P<rest>(?:.+\n|\n(?!\s*Developer|User code|For more))*)", re.MULTILINE
)
_GUARD_NOISE = re.compile(r"\s+#\s.*")
_LIMIT = 400


def graph_break(payload: str, library_roots: Sequence[str] = ()) -> str:
    """One line for a graph break: where, and why.

    Example:
        >>> graph_break('Graph break in user code at model.py:8\\nGraph Break Reason: Data-dependent branching\\n')
        'graph break at model.py:8: Data-dependent branching'
    """
    match = _PLACE.search(payload)
    place = (
        f"{match['file']}:{match['line']}" if match else user_line(payload.split("\nTraceback", 1)[0], library_roots)
    )
    reason = _REASON.search(payload)
    if reason is None:
        lines = [line.strip() for line in payload.splitlines() if line.strip()]
        said = lines[0] if lines else "no reason recorded"
    else:
        said = reason["first"].strip()
        following = [line.strip() for line in reason["rest"].splitlines() if line.strip()]
        if said.startswith("Encountered graph break when attempting to trace") and following:
            said = following[0]  # the first line names the bytecode, the next one the cause
        explained = next((line for line in following if line.startswith("Explanation:")), "")
        said = f"{said}; {explained.removeprefix('Explanation:').strip()}" if explained else said
    return f"graph break at {place or 'an unknown line'}: {_short(said)}"


def recompile(metrics: Mapping[str, Any]) -> str:
    """One line for a recompilation, from its compilation metrics; empty where this was none.

    Example:
        >>> recompile({"recompile_reason": "0/0: k == 2   # return x * k", "co_name": "f", "co_filename": "m.py",
        ...            "co_firstlineno": 3, "compile_id": "0/1"})
        'recompile of f at m.py:3 (0/1): 0/0: k == 2'
    """
    reason = metrics.get("recompile_reason")
    if not reason:
        return ""
    said = str(reason).splitlines()[0]
    if said.startswith("["):
        with contextlib.suppress(ValueError):
            said = str(json.loads(str(reason))[0])
    place = f"{metrics.get('co_filename') or 'unknown'}:{metrics.get('co_firstlineno') or '?'}"
    guard = _GUARD_NOISE.sub("", said.splitlines()[0])
    return f"recompile of {metrics.get('co_name')} at {place} ({metrics.get('compile_id')}): {_short(guard)}"


_PHASES = (
    ("Scheduler.codegen", "Inductor's code generation"),
    ("Scheduler.", "Inductor's scheduling"),
    ("code_gen", "Inductor's code generation"),
    ("GraphLowering.codegen", "Inductor's code generation"),
    ("GraphLowering.run", "Inductor's lowering"),
    ("PyCodeCache", "loading the generated code"),
    ("async_compile", "compiling the generated code"),
    ("compile_file", "compiling the generated code"),
    ("GraphLowering.compile", "compiling the generated code"),
    ("_recursive_", "Inductor's graph passes"),
    ("pass.", "Inductor's graph passes"),
    ("fx_codegen_and_compile", "Inductor"),
    ("inductor_compile", "Inductor"),
    ("compile_fx", "Inductor"),
    ("create_aot", "AOTAutograd"),
    ("aot_", "AOTAutograd"),
    ("backend_compile", "the back end"),
    ("bytecode_tracing", "Dynamo's tracing"),
    ("compile_attempt", "Dynamo's tracing"),
)
"""Starts of the names of the compiler's own phases, to words; the first that fits."""


@dataclass
class Phases:
    """Which phase the compiler is in, from the events that it traces; an exception ends the phases inside out."""

    _ended: list[str] = field(default_factory=list)

    def event(self, payload: str) -> None:
        """Take note of one event: a phase begins or ends."""
        with contextlib.suppress(ValueError):
            event = json.loads(payload)
            if not isinstance(event, dict) or event.get("name") == "gc":
                return
            if event.get("ph") == "B":
                self._ended.clear()
            elif event.get("ph") == "E":
                self._ended.append(str(event.get("name")))

    def broken(self) -> str:
        """The innermost phase that an exception left just now, in words.

        Example:
            >>> phases = Phases()
            >>> for name in ("code_gen", "inductor_compile"):
            ...     phases.event(json.dumps({"ph": "E", "name": name}))
            >>> phases.broken()
            "Inductor's code generation"
        """
        if not self._ended:
            return ""
        name = self._ended[0]
        return next((words for start, words in _PHASES if name.startswith(start)), f"the compiler's phase {name!r}")


def failure(metrics: Mapping[str, Any], phase: str = "") -> str:
    """One line for a compilation that failed, from its compilation metrics; empty where it did not.

    Args:
        metrics: the record.
        phase: what the compiler was doing, in words.
    """
    kind = metrics.get("fail_type")
    if not kind:
        return ""
    file, line = metrics.get("fail_user_frame_filename"), metrics.get("fail_user_frame_lineno")
    place = f"{file}:{line}" if file else f"{metrics.get('co_filename')}:{metrics.get('co_firstlineno')}"
    reason = str(metrics.get("fail_reason") or "no reason recorded").strip().splitlines()[0]
    during = f" in {phase}" if phase else ""
    return f"compilation of {metrics.get('co_name')} failed at {place}{during}: {kind}: {_short(reason)}"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LIMIT else text[: _LIMIT - 3] + "..."

"""Graph breaks, recompilations and failures in one line each, from the structured trace. Pure: records in, text out."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fuselab.capture.provenance import user_line

__all__ = ["failure", "graph_break", "recompile"]

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


def failure(metrics: Mapping[str, Any]) -> str:
    """One line for a compilation that failed, from its compilation metrics; empty where it did not."""
    kind = metrics.get("fail_type")
    if not kind:
        return ""
    file, line = metrics.get("fail_user_frame_filename"), metrics.get("fail_user_frame_lineno")
    place = f"{file}:{line}" if file else f"{metrics.get('co_filename')}:{metrics.get('co_firstlineno')}"
    reason = str(metrics.get("fail_reason") or "no reason recorded").strip().splitlines()[0]
    return f"compilation of {metrics.get('co_name')} failed at {place}: {kind}: {_short(reason)}"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LIMIT else text[: _LIMIT - 3] + "..."

"""Listens to the compiler's structured trace while a stream of calls runs, and says each event as it comes.

Stacks and types are read from the compiler's own objects where it shows them (``internals``), else from the record.
"""

from __future__ import annotations

import json
import linecache
import logging
import re
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from fuselab.diagnosis import internals
from fuselab.diagnosis.events import AnyEvent, BreakEvent, CompiledEvent, LimitEvent, RecompileEvent
from fuselab.diagnosis.guards import guard_from, normalised, version_of
from fuselab.diagnosis.records import Frame

__all__ = ["Listener", "frame_from"]

_CONTEXT = frozenset(
    {"rank", "frame_id", "frame_compile_id", "compiled_autograd_id", "attempt", "stack", "has_payload", "subgraph_name"}
)
_WRAPPING = ("Encountered graph break when attempting", "Failed to handle graph break gracefully", "Graph break under ")
"""How first lines of a reason begin that only say what the compiler was doing; the cause follows."""

_RESUMED = re.compile(r"^torch_dynamo_resume_in_(?P<name>.+)_at_\d+$")
_FRAME = re.compile(r'^ *File "(?P<file>[^"\n]+)", line (?P<line>\d+), in (?P<function>.+)$', re.MULTILINE)
_PLACE = re.compile(r"^Graph break in user code at (?P<file>.+):(?P<line>\d+)\s*$", re.MULTILINE)
_LIMIT = "recompile limit"
_LONGEST = 2000


class Listener(logging.Handler):
    """Hands every graph break, recompilation and failure on as an event."""

    def __init__(self, say: Callable[[AnyEvent], None], own: str = "") -> None:
        """Take note.

        Args:
            say: is given the events.
            own: a file that is the user's wherever it is, also among installed packages.
        """
        super().__init__(logging.DEBUG)
        self._own = own
        self.call = 0
        """Which call is running; set by whoever makes the calls."""
        self._say = say
        self._folders = internals.library_folders()
        self._stacks: dict[str, dict[str, list[traceback.FrameSummary]]] = {}
        self._functions: dict[str, Frame] = {}
        self._names: dict[int, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Never raises into the user's compilation: what cannot be read is an event of its own."""
        metadata = getattr(record, "metadata", None)
        if not isinstance(metadata, Mapping):
            return
        try:
            self._receive(metadata, getattr(record, "payload", None) or "")
        except Exception as error:  # noqa: BLE001 - raising here would fail the user's compilation
            self._say(
                LimitEvent(
                    call=self.call,
                    limit=False,
                    kind=type(error).__name__,
                    reason=f"a trace record was not read: {error}",
                )
            )

    def _receive(self, metadata: Mapping[str, Any], payload: str) -> None:
        kind = next((key for key in metadata if key not in _CONTEXT), "")
        detail = metadata.get(kind)
        name = str(detail.get("name", "")) if kind == "artifact" and isinstance(detail, Mapping) else kind
        compile_id = f"{metadata.get('frame_id')}/{metadata.get('frame_compile_id')}"
        if kind == "str" and isinstance(detail, list | tuple) and len(detail) == 2:
            self._names[int(detail[1])] = str(detail[0])
        elif name == "dynamo_start" and isinstance(detail, Mapping):
            self._receive_start(compile_id, detail)
        elif name == "dynamo_output_graph":
            self._stacks[compile_id] = {normalised(k): v for k, v in internals.guard_stacks().items()}
            self._say(CompiledEvent(call=self.call))
        elif name == "dynamo_graph_break_reason":
            self._say(self._break(payload))
        elif name == "recompile_reasons":
            self._say(self._recompile(compile_id, payload))
        elif name == "compilation_metrics" and isinstance(detail, Mapping):
            self._receive_metrics(compile_id, detail)

    def _receive_start(self, compile_id: str, detail: Mapping[str, Any]) -> None:
        """The function that is being compiled: the innermost frame of the record's stack."""
        stack = detail.get("stack") or ()
        if stack:
            names = {**internals.file_names(), **self._names}
            innermost = stack[-1]
            file = innermost.get("filename")
            self._functions[compile_id] = self._frame(
                str(names.get(file, file)), int(innermost.get("line") or 0), str(innermost.get("name") or "")
            )

    def _break(self, payload: str) -> BreakEvent:
        seen = internals.current_break()
        said, stack = seen if seen is not None else ("", None)
        first, rest = _reason(payload)
        explanation, hints, context = _parts(rest)
        frames = self._frames(stack) if stack else self._frames_in(payload)
        return BreakEvent(
            call=self.call,
            gb_type=first or said or "no reason recorded",
            context=context,
            explanation=explanation,
            hints=hints,
            stack=frames,
            skipped="falling back to eager" in payload or "fall back to eager" in payload,
        )

    def _recompile(self, compile_id: str, payload: str) -> RecompileEvent:
        reasons = [payload]
        if payload.lstrip().startswith("["):
            try:
                reasons = [str(reason) for reason in json.loads(payload)]
            except ValueError:  # one reason that happens to begin like a list
                reasons = [payload]
        newest = reasons[0]
        guard = guard_from(newest)
        stack = self._frames(self._stacks.get(version_of(newest), {}).get(guard.subject, ()))
        if not stack and "User stack trace:" in newest:
            stack = self._frames_in(newest)
        return RecompileEvent(
            call=self.call,
            reasons=[reason[:_LONGEST] for reason in reasons],
            stack=stack,
            function=self._functions.get(compile_id) or self._functions.get(version_of(newest)),
        )

    def _receive_metrics(self, compile_id: str, metrics: Mapping[str, Any]) -> None:
        kind = metrics.get("fail_type")
        if not kind:
            return
        reason = str(metrics.get("fail_reason") or "no reason recorded")
        limit = _LIMIT in reason.split("\n", 1)[0]
        if not limit and kind in ("Unsupported", "SkipFrame", "UserError"):
            return  # a graph break that skips the function: it has been said as such
        file, line = metrics.get("fail_user_frame_filename"), metrics.get("fail_user_frame_lineno")
        function = self._functions.get(compile_id)
        if function is None:  # at the limit nothing is started: the versions before it say which function it is
            function = self._functions.get(f"{compile_id.split('/', 1)[0]}/0")
        self._say(
            LimitEvent(
                call=self.call,
                limit=limit,
                kind=str(kind),
                reason=reason[:_LONGEST],
                function=function,
                place=self._frame(str(file), int(line or 0), "") if file else None,
            )
        )

    def _frames(self, stack: Iterable[traceback.FrameSummary]) -> list[Frame]:
        return [self._frame(f.filename, f.lineno or 0, f.name, (f.line or "").strip()) for f in stack]

    def _frames_in(self, text: str) -> list[Frame]:
        """Frames from a record's text, outermost first; without any, the place in its first line."""
        said = text.split("\nTraceback (most recent call last)", 1)[0]
        frames = [self._frame(m["file"], int(m["line"]), m["function"]) for m in _FRAME.finditer(said)]
        place = _PLACE.search(said)
        if place is not None:
            line = int(place["line"])
            frames = [f for f in frames if not f.library]
            if not frames or (frames[-1].file, frames[-1].line) != (place["file"], line):
                frames.append(self._frame(place["file"], line, ""))
        return frames

    def _frame(self, file: str, line: int, function: str, source: str = "") -> Frame:
        frame = frame_from(file, line, function, self._folders, source)
        return msgspec.structs.replace(frame, library=False) if file == self._own else frame


def frame_from(file: str, line: int, function: str, folders: tuple[str, ...], source: str = "") -> Frame:
    """A frame with its source line, and whether it is a library's."""
    resumed = _RESUMED.match(function)
    return Frame(
        file=file,
        line=line,
        function=resumed["name"] if resumed else function,
        source=source or linecache.getline(file, line).strip(),
        library=file.startswith(folders) or file.startswith(("<frozen", "<eval_with_key>", "<__array_function__")),
    )


def _reason(payload: str) -> tuple[str, str]:
    """The compiler's type of the break, and everything that follows it."""
    said = payload.split("\nUser code traceback:", 1)[0].split("\nTraceback (most recent call last)", 1)[0]
    _, marker, reason = said.partition("Graph Break Reason: ")
    if not marker:  # a skipped function: the reason stands at the end of the traceback
        _, _, reason = payload.rpartition("Unsupported: ")
    lines = reason.strip().splitlines()
    while lines and (not lines[0].strip() or lines[0].startswith(_WRAPPING)):
        del lines[0]
        # "Graph break under ..." brings an explanation of its own before the cause, which begins at the margin.
        while lines and (not lines[0].strip() or lines[0].startswith(" ")):
            del lines[0]
    return (lines[0].strip(), "\n".join(lines[1:])) if lines else ("", "")


def _parts(rest: str) -> tuple[str, list[str], str]:
    """Explanation, hints and context of a break; where it wraps another one, the inner one's, which come first."""
    explanation, context = "", ""
    hints: list[str] = []
    for line in rest.splitlines():
        text = line.strip()
        if text.startswith("Explanation:") and not explanation:
            explanation = text.removeprefix("Explanation:").strip()
        elif text.startswith("Hint:"):
            hints.append(text.removeprefix("Hint:").strip())
        elif text.startswith("Developer debug context:") and not context:
            context = text.removeprefix("Developer debug context:").strip()
    return explanation, hints, context[:_LONGEST]

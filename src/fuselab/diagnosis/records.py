"""What a diagnosis says: findings with the user's line, the edits that would remove them, and the proof of those.

Frozen, typed, JSON only, as ``fuselab.records``; the schema is ``json_schema()``.
"""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from fuselab.records import Status

__all__ = [
    "SCHEMA_VERSION",
    "CallChange",
    "Counts",
    "Diagnosis",
    "Edit",
    "Equality",
    "Failure",
    "Finding",
    "FindingKind",
    "Frame",
    "Guard",
    "Proof",
    "ProofStatus",
    "Proved",
    "SourceChange",
    "json_schema",
]

SCHEMA_VERSION = 1
"""Version of a diagnosis as JSON."""


class FindingKind(enum.StrEnum):
    """What the compiler did."""

    GRAPH_BREAK = "graph break"
    """One graph became two, with Python between them; or a frame was left to Python altogether."""
    RECOMPILE = "recompile"
    """Code that was compiled before was compiled again, since a guard failed."""
    LIMIT = "recompile limit"
    """Compiled too often: the function runs uncompiled from here on."""
    FAILURE = "compilation failed"
    """The compiler raised."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all records of a diagnosis; unknown fields of a newer minor version are ignored on reading."""


class Frame(Record, frozen=True, kw_only=True):
    """One line of a stack."""

    file: str
    """Path of the file; ``<string>`` for code from ``exec``."""
    line: int
    """Line number, from 1."""
    function: str = ""
    """Name of the function, as the user wrote it."""
    source: str = ""
    """The line's text without indentation; empty where the source is not available."""
    library: bool = False
    """Whether the file belongs to Python, torch or another installed package."""


class Guard(Record, frozen=True, kw_only=True):
    """One guard that failed: what the compiled code had assumed of the function's surroundings."""

    expression: str
    """In the compiler's words: ``tensor 'x' size mismatch at index 0. expected 8, actual 16``, ``self.step == 0``."""
    kind: str
    """What sort of assumption: ``size``, ``stride``, ``dtype``, ``integer``, ``float``, ``global_state``, ..."""
    subject: str = ""
    """Whose value it is about: ``x``, ``self.step``, ``G['SCALE']``; empty for the state of the process."""
    subject_kind: str = ""
    """``argument``, ``attribute``, ``global``, ``state``, or ``intermediate``: computed before a graph break."""
    axis: int | None = None
    """Which axis, for sizes and strides."""
    expected: str = ""
    """The value that was compiled for."""
    actual: str = ""
    """The value that came, where the compiler says so."""


class SourceChange(Record, frozen=True, kw_only=True):
    """Lines of a file replaced; ``last_line`` is ``first_line - 1`` where lines are only put in."""

    file: str
    """Path of the file."""
    first_line: int
    """First line that is replaced, from 1."""
    last_line: int
    """Last line that is replaced."""
    text: str
    """What stands there afterwards, line ends included."""


class CallChange(Record, frozen=True, kw_only=True):
    """A change where the function is compiled or called, which is not in the user's file."""

    kind: str
    """``mark_dynamic``, ``tensor_argument`` or ``compile_dynamic``."""
    argument: str = ""
    """Name of the argument."""
    axis: int | None = None
    """Axis to mark."""


class Edit(Record, frozen=True, kw_only=True):
    """A change that would remove a finding."""

    name: str
    """Name of the rewriting: ``where``, ``drop_item``, ``mark_dynamic``, ..."""
    title: str
    """What is done, in a few words."""
    judgement: bool = False
    """Whether it changes what the code does beyond its results, so that only its author can say."""
    changes: list[SourceChange] = []
    """Changes in files."""
    call_changes: list[CallChange] = []
    """Changes where the function is compiled or called."""
    diff: str = ""
    """The change as a unified diff of the user's own lines, without the file's header."""


class Finding(Record, frozen=True, kw_only=True):
    """One graph break or recompilation, with where, why, and what to do."""

    kind: FindingKind
    """What the compiler did."""
    cause: str
    """Name of the cause in the catalogue (``fuselab.diagnosis.causes``)."""
    title: str
    """The cause in a few words."""
    place: Frame | None
    """The user's line: the innermost frame in the user's own files; None where nobody recorded one."""
    stack: list[Frame] = []
    """Every recorded frame, the innermost last."""
    reason: str
    """The compiler's own words, first line."""
    explanation: str = ""
    """What it means."""
    hints: list[str] = []
    """The compiler's own hints."""
    guards: list[Guard] = []
    """For a recompile: the guards that failed, of the newest compiled code first."""
    advice: str = ""
    """What would remove it."""
    judgement: bool = True
    """Whether removing it needs the author's judgement."""
    edits: list[Edit] = []
    """The change that would remove it, on the user's own lines; the first is the likeliest."""
    times: int = 1
    """How often it happened."""
    calls: list[int] = []
    """In which calls it happened, from 0."""
    function_skipped: bool = False
    """Whether the compiler gave up on the whole function here and left it to Python."""


class Counts(Record, frozen=True, kw_only=True):
    """One stream of calls, counted."""

    graph_breaks: int
    """Lines that break the graph, each counted once."""
    recompiles: int
    """Compilations of code that had been compiled before."""
    graphs: int
    """Graphs that were handed to the backend."""
    limits: int = 0
    """Functions that were left uncompiled after too many recompilations."""
    failures: int = 0
    """Compilations that failed."""
    first_pass_s: float | None = None
    """Wall time of the stream's first pass, compilation included."""
    pass_s: float | None = None
    """Wall time of a later pass: the median over several."""


class Equality(Record, frozen=True, kw_only=True):
    """Outputs, gradients, changed arguments and printed lines against the original, uncompiled."""

    equal: bool
    """Whether everything agrees, up to rounding."""
    bitwise: bool = False
    """Whether every element of every tensor is the same."""
    compared: int = 0
    """Tensors and values compared."""
    worst: float = 0.0
    """Largest difference in units of the dtype's epsilon times the tensor's own scale."""
    reason: str = ""
    """What differs; empty when equal."""


class ProofStatus(enum.StrEnum):
    """How the proof of an edit ended."""

    PROVED = "proved"
    """The finding is gone, nothing new came, and the answers are equal."""
    STILL_THERE = "still there"
    """It breaks or recompiles all the same, or something else does instead."""
    DIFFERENT = "answers differ"
    """The finding is gone and so are the answers."""
    FAILED = "failed"
    """The changed code raised, died or did not end."""


class Proof(Record, frozen=True, kw_only=True):
    """One edit, applied to a copy and run."""

    finding: int
    """Which finding, by its place in the list."""
    edit: str
    """Name of the edit."""
    status: ProofStatus
    """How it ended."""
    reason: str = ""
    """Why it is not proved."""
    before: Counts
    """The original's counts."""
    after: Counts | None = None
    """The counts with the edit (and those proved with it); None where it failed."""
    equality: Equality | None = None
    """The comparison of the answers; None where it failed."""


class Proved(Record, frozen=True, kw_only=True):
    """Everything that was proved, together in one copy."""

    edits: list[Edit]
    """The edits."""
    findings: list[int]
    """The findings that they remove, by their places in the list."""
    before: Counts
    """The original."""
    after: Counts
    """The copy with all edits."""
    remaining: list[Finding] = []
    """What is left to do, with lines of the copy."""
    equality: Equality
    """Answers of the copy against those of the original."""
    backend: str
    """The backend that both were timed with."""
    patch: str
    """The edits in files as a patch for ``patch -p0`` or ``git apply -p0``."""


class Failure(Record, frozen=True, kw_only=True):
    """Why the diagnosis is not complete."""

    status: Status
    """What happened."""
    stage: str
    """Where: ``loading``, ``eager call 0``, ``compiled call 3``, ..."""
    reason: str
    """In words."""
    place: Frame | None = None
    """The user's line, where an exception has one."""


class Diagnosis(Record, frozen=True, kw_only=True):
    """Everything found in one stream of calls."""

    target: str
    """``FILE.py:NAME``."""
    arguments: list[str] = []
    """Texts of ``--arg``."""
    vary: list[str] = []
    """Texts of ``--vary``."""
    calls: int
    """Calls in the stream."""
    backend: str
    """The backend of ``torch.compile`` that was counted with."""
    device_type: str = ""
    """``cpu`` or ``cuda``."""
    versions: dict[str, str] = {}
    """Versions of torch and fuselab."""
    counts: Counts | None = None
    """Counts of the stream; None where it did not come to calls."""
    findings: list[Finding] = []
    """Graph breaks first, then recompiles, each in the order it came."""
    failure: Failure | None = None
    """Why it is not complete; None when it is."""
    proofs: list[Proof] = []
    """Every edit that was tried, with how it ended."""
    proved: Proved | None = None
    """The edits that hold, together; None where none does or nothing was tried."""
    notes: list[str] = []
    """What else a reader should know."""
    schema_version: int = SCHEMA_VERSION
    """Version of this record."""

    @property
    def clean(self) -> bool:
        """Whether the stream ran to its end without a finding."""
        return not self.findings and self.failure is None


def json_schema() -> dict[str, Any]:
    """JSON Schema of ``fuselab diagnose --json``.

    Example:
        >>> "Finding" in json_schema()["$defs"]
        True
    """
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(Diagnosis)}

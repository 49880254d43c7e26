"""The catalogue: causes of graph breaks and recompilations, how each is recognised, and what removes it. Data.

A graph break is recognised by the compiler's own type and context of it (``torch/_dynamo/graph_break_registry.json``
lists the types), a recompilation by the kind of guard that failed (``guards``). Order matters: the first match is it.
"""

from __future__ import annotations

import ast
import re

from fuselab.diagnosis.cause import Cause
from fuselab.diagnosis.causes_of_breaks import BREAKS
from fuselab.diagnosis.causes_of_recompiles import RECOMPILES
from fuselab.diagnosis.records import Guard

__all__ = ["BREAKS", "CATALOGUE", "RECOMPILES", "cause_of_break", "cause_of_recompile", "find"]


LIMIT = Cause(
    "recompile_limit",
    "compiled too often",
    "After torch._dynamo.config.recompile_limit versions the compiler gives up: every call that fits none of them runs "
    "uncompiled, without a word.",
    "Remove the cause of the recompilations. Raising the limit only helps where the number of versions is small and "
    "known.",
    judgement=True,
)
"""The limit of recompilations was reached."""

FAILED = Cause(
    "compiler_failed",
    "the compiler failed",
    "The compiler raised where Python does not.",
    "Keep this function out with torch.compiler.disable until it is mended; the compiler's own words are below.",
    judgement=True,
)
"""The compilation raised."""

CATALOGUE: tuple[Cause, ...] = (*BREAKS, *RECOMPILES, LIMIT, FAILED)
"""Every cause, in the order in which they are tried."""


def cause_of_break(gb_type: str, context: str, statement: ast.stmt | None) -> Cause:
    """The cause of a graph break.

    Args:
        gb_type: the compiler's type.
        context: the compiler's context.
        statement: the user's statement; None where the source is not available.

    Example:
        >>> cause_of_break("Data-dependent branching", "", None).name
        'data_dependent_branch'
    """
    for cause in BREAKS:
        if not re.search(cause.gb_type, gb_type):
            continue
        if cause.context and not re.search(cause.context, f"{gb_type}\n{context}"):
            continue
        if cause.statement is not None and not isinstance(statement, cause.statement):
            continue
        return cause
    return BREAKS[-1]


def cause_of_recompile(guard: Guard) -> Cause:
    """The cause of a recompilation.

    Example:
        >>> cause_of_recompile(Guard(expression="k == 2", kind="integer", subject="k", subject_kind="argument")).name
        'changing_integer'
    """
    for cause in RECOMPILES:
        if guard.kind in cause.guards and (not cause.subjects or guard.subject_kind in cause.subjects):
            return cause
    return RECOMPILES[-1]


def find(name: str) -> Cause:
    """The cause of that name; raises ``KeyError`` where there is none."""
    return {cause.name: cause for cause in reversed(CATALOGUE)}[name]

"""One cause of a graph break or a recompilation, and what removes it."""

from __future__ import annotations

import ast
from dataclasses import dataclass

__all__ = ["Cause"]


@dataclass(frozen=True)
class Cause:
    """One cause and what removes it."""

    name: str
    """Its name, for records."""
    title: str
    """In a few words."""
    explanation: str
    """What the compiler cannot do, and what that costs."""
    advice: str
    """What removes it."""
    judgement: bool
    """Whether only the author can say if the removal is right: it changes more than speed."""
    rewrites: tuple[str, ...] = ()
    """Names of the rewrites to try (``rewrites.REWRITES``), the likeliest first."""
    gb_type: str = ""
    """Regular expression that the compiler's type of the break has to match; empty for causes of recompilations."""
    context: str = ""
    """Regular expression that the compiler's type or context has to match."""
    statement: type[ast.stmt] | None = None
    """Kind of statement that the user's line has to be."""
    guards: tuple[str, ...] = ()
    """Kinds of guard; empty for causes of graph breaks."""
    subjects: tuple[str, ...] = ()
    """Kinds of subject, where they matter."""

"""The catalogue: what each environment variable of torch and triton does, which of them fight, which nothing reads.

The data is ``catalogue.toml`` beside this file; its head says what the fields mean. Nothing here looks at the machine.
"""

from __future__ import annotations

import enum
import functools
import tomllib
from importlib import resources

import msgspec

from fuselab.errors import UnknownNameError

__all__ = ["SUBJECTS", "Catalogue", "Dead", "Fight", "Moment", "Variable", "catalogue"]

SUBJECTS = {
    "logs": "what the compiler says of itself",
    "caches": "what is kept between processes",
    "dynamo": "capturing the user's Python",
    "inductor": "lowering, fusion and launching",
    "cudagraphs": "CUDA graphs",
    "autotuning": "what is timed to choose",
    "cpu": "generated C++",
    "numerics": "rounding, determinism, NaN",
    "triton": "Triton's compiler and interpreter",
    "aoti": "AOTInductor packages",
    "repro": "minifier and bisector",
    "memory": "the caching allocator",
    "cuda": "GPUs, launches, libraries",
    "threads": "CPU threads and libraries",
    "distributed": "NCCL and c10d",
    "toolchain": "compilers, extensions, loading",
}
"""Subjects in the order of the table."""


class Moment(enum.Enum):
    """When a variable is read."""

    IMPORT = "import"
    """Once, while the module that reads it is imported."""
    DECORATION = "decoration"
    """When torch.compile or triton.jit wraps the function."""
    COMPILE = "compile"
    """At each compile."""
    LAUNCH = "launch"
    """At each launch or call of a kernel."""
    CALL = "call"
    """Each time the function that wants it runs."""
    FIRST_USE = "first use"
    """Once, when it is first needed; what was read stays."""


class Variable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One variable that an installed torch, triton or NVIDIA library reads."""

    name: str
    subject: str
    type: str
    """``bool``, ``int``, ``text``, ``path``, ``list`` (commas) or ``choice``."""
    does: str
    """What it does, in one sentence."""
    default: str
    """What holds without it: the field's value as Python where there is a field, else the value or words."""
    example: str
    expect: str
    """What to expect from the example."""
    read: Moment
    files: tuple[str, ...]
    """Who reads it: sources and libraries below site-packages, any of which may be left out of a build."""
    before: str | None = None
    """What must not have happened yet: the import of a module, or the first use of ``cuda`` or ``nccl``."""
    instead: str | None = None
    """What does the same when it is too late for the variable."""
    field: str | None = None
    """Dotted path of the configuration field behind it."""
    gives: str | None = None
    """What the field holds with the example, as Python."""
    default_in: dict[str, str] = {}
    """Defaults that differ in one release of torch."""
    since: str | None = None
    """First release of torch (or triton, where only triton reads it) that is known to read it."""
    until: str | None = None
    """Last release that reads it."""
    mentioned: bool = False
    """Whether the library builds the name from parts, so that only its messages hold it whole."""

    @property
    def package(self) -> str:
        """Whose version ``since`` and ``until`` speak of: ``torch``, ``triton`` or ``nvidia``."""
        packages = {file.split("/", 1)[0] for file in self.files}
        return packages.pop() if len(packages) == 1 else "torch"

    @property
    def readers(self) -> tuple[str, ...]:
        """Modules that read it, as they are imported."""
        sources = (file.removesuffix(".py") for file in self.files if file.endswith(".py"))
        return tuple(source.removesuffix("/__init__").replace("/", ".") for source in sources)

    def too_late_after(self) -> tuple[str, ...]:
        """Modules (or ``cuda``, ``nccl``) after whose import (or first use) setting it changes nothing."""
        if self.before is not None:
            return (self.before,)
        if self.read is Moment.IMPORT:
            return self.readers
        return self.readers if self.read is Moment.FIRST_USE else ()


class Dead(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A variable that is set in public code and that no supported torch or triton reads."""

    name: str
    use: str
    """What does what its name promises."""
    note: str = ""


class Fight(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Two settings of which one undoes the other.

    A condition is a value, ``*`` (set to anything but 0), ``-`` (not set), or ``!=`` (set otherwise than the first).
    """

    when: dict[str, str]
    why: str

    def holds(self, environ: dict[str, str]) -> bool:
        """Whether an environment has both settings.

        Example:
            >>> fight = Fight(when={"A": "1", "B": "-"}, why="")
            >>> fight.holds({"A": "1"}), fight.holds({"A": "1", "B": "0"}), fight.holds({"A": "0"})
            (True, False, False)
        """
        first = environ.get(next(iter(self.when)))
        for name, wanted in self.when.items():
            value = environ.get(name)
            kept = {
                "-": value is None,
                "*": value is not None and value != "0",
                "!=": value is not None and value != first,
            }.get(wanted, value == wanted)
            if not kept:
                return False
        return True


class Catalogue(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """Everything that is known of the variables."""

    variable: tuple[Variable, ...]
    dead: tuple[Dead, ...]
    fight: tuple[Fight, ...]

    @functools.cached_property
    def by_name(self) -> dict[str, Variable]:
        """The variables by name."""
        return {variable.name: variable for variable in self.variable}

    @functools.cached_property
    def dead_by_name(self) -> dict[str, Dead]:
        """The dead ones by name."""
        return {dead.name: dead for dead in self.dead}

    def find(self, name: str) -> Variable:
        """One variable.

        Raises:
            UnknownNameError: there is none of this name; the nearest is named, and for a dead one what to use instead.
        """
        if name in self.by_name:
            return self.by_name[name]
        if name.upper() in self.by_name:
            return self.by_name[name.upper()]
        raise _unknown(name, self)


def _unknown(name: str, known: Catalogue) -> UnknownNameError:
    nearest = nearest_name(name, known)
    error = UnknownNameError("environment variable", name, [nearest] if nearest else [])
    dead = known.dead_by_name.get(name.upper())
    question = f"; did you mean {nearest!r}?" if nearest and not dead else ""
    words = f"no version of torch or triton reads {dead.name}" if dead else f"unknown environment variable {name!r}"
    error.message = words + question
    error.hint = (
        f"use {dead.use}" if dead else "`fuselab env` lists them all; `fuselab env --dead` those that nothing reads"
    )
    error.args = (error.message,)
    return error


def nearest_name(name: str, known: Catalogue) -> str | None:
    """The variable whose name is most like another, with the words in any order.

    Example:
        >>> nearest_name("TORCHINDUCTOR_MAX_AUTOTUN", catalogue())
        'TORCHINDUCTOR_MAX_AUTOTUNE'
    """
    import difflib

    near = difflib.get_close_matches(name.upper(), known.by_name, n=1, cutoff=0.6)
    if near:
        return near[0]
    words = set(name.upper().split("_")) - {"TORCH", "TORCHINDUCTOR", "TORCHDYNAMO", "TRITON", "PYTORCH", ""}
    scored = [
        (len(words & set(other.split("_"))) / max(1, len(set(other.split("_")))), other) for other in known.by_name
    ]
    best = max(scored, default=(0.0, ""))
    return best[1] if best[0] >= 0.3 else None


@functools.cache
def catalogue() -> Catalogue:
    """The catalogue from its file, read once."""
    text = resources.files("fuselab.env_vars").joinpath("catalogue.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), Catalogue)

"""What is set, and what is wrong with it: too late, contradicting, misread, read by nothing."""

from __future__ import annotations

import enum
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from fuselab.env_vars.catalogue import Catalogue, Variable, catalogue, nearest_name
from fuselab.env_vars.installation import Installation
from fuselab.env_vars.moment import why_late
from fuselab.env_vars.values import read_as

__all__ = ["Finding", "Kind", "Report", "Setting", "judge", "report_here", "report_of"]

PREFIXES = (
    *("TORCH_", "TORCHINDUCTOR_", "TORCHDYNAMO_", "TORCHEXPORT_", "PYTORCH_", "AOT_INDUCTOR_", "AOTI", "INDUCTOR_"),
    *("TRITON_", "MLIR_", "AMDGCN_", "NVPTX_"),
)
"""A name that begins like these is meant for torch or triton."""


class Kind(enum.Enum):
    """What is wrong with a setting."""

    LATE = "too late"
    FIGHT = "contradiction"
    DEAD = "read by nothing"
    UNKNOWN = "not found"
    MISREAD = "misread"
    OTHER_RELEASE = "another release"


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One variable that is set."""

    name: str
    value: str
    subject: str = ""
    does: str = ""
    where: str = ""
    """Line of the script that sets it; empty for the environment."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong, with the way out."""

    kind: Kind
    names: tuple[str, ...]
    message: str
    remedy: str = ""
    where: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What is set and what is wrong with it."""

    settings: tuple[Setting, ...]
    findings: tuple[Finding, ...]

    def _repr_html_(self) -> str:
        import html

        rows = "".join(
            f"<tr><td><code>{html.escape(s.name)}</code></td><td>{html.escape(s.does)}</td></tr>" for s in self.settings
        )
        words = "".join(f"<li>{html.escape(f'{f.kind.value}: {f.message}')}</li>" for f in self.findings)
        return f"<table>{rows}</table><ul>{words}</ul>"


def report_of(environ: Mapping[str, str], installation: Installation | None = None) -> Report:
    """What an environment sets for a process that begins with it: nothing can be too late.

    Args:
        environ: variables by name.
        installation: the torch and triton that will read them; the installed ones unless given.
    """
    known = catalogue()
    settings = _settings(environ, known)
    return Report(settings=settings, findings=tuple(judge(environ, known, installation or Installation.here())))


def report_here() -> Report:
    """The same for this process, with what was set after its reader had looked.

    A value is known to be late when the process did not begin with it and its reader was imported or used since; where
    a field shows that the value did arrive, nothing is said.
    """
    report = report_of(os.environ)
    known = catalogue().by_name
    began = environment_at_start()
    late = []
    for setting in report.settings:
        variable = known.get(setting.name)
        if variable is None or began is None or began.get(setting.name) == setting.value:
            continue
        reason = why_late(variable)
        if reason and not _arrived(variable, setting.value):
            late.append(_late(variable, reason))
    return msgspec.structs.replace(report, findings=(*late, *report.findings))


def _late(variable: Variable, reason: str, where: str = "") -> Finding:
    remedy = variable.instead or (f"{variable.field} is the field behind it" if variable.field else "")
    before = " or ".join(variable.too_late_after())
    return Finding(
        kind=Kind.LATE,
        names=(variable.name,),
        message=f"{variable.name} is set too late: {reason}",
        remedy=remedy or f"set it before {before} is {'used' if before in ('cuda', 'nccl') else 'imported'}",
        where=where,
    )


def judge(environ: Mapping[str, str], known: Catalogue, installation: Installation) -> Iterable[Finding]:
    """Everything that is wrong with an environment, whoever set it and when."""
    for name, value in sorted(environ.items()):
        variable = known.by_name.get(name)
        if variable is not None:
            if not installation.in_range(variable):
                yield Finding(
                    kind=Kind.OTHER_RELEASE,
                    names=(name,),
                    message=f"{name}: {installation.look(variable).reason}",
                )
            elif words := _misread(variable, value, installation):
                yield Finding(kind=Kind.MISREAD, names=(name,), message=words, remedy=f"{name}={variable.example}")
        elif name in known.dead_by_name:
            yield dead_finding(name, known)
        elif name.startswith(PREFIXES) and (finding := unknown_finding(name, known, installation)):
            yield finding
    for fight in known.fight:
        if fight.holds(dict(environ)):
            names = tuple(fight.when)
            said = " with ".join(f"{name}={environ[name]}" for name in names if name in environ)
            yield Finding(kind=Kind.FIGHT, names=names, message=f"{said}: {fight.why}")


def dead_finding(name: str, known: Catalogue, where: str = "") -> Finding:
    """A variable that nothing reads any more."""
    dead = known.dead_by_name[name]
    note = f"; {dead.note[0].lower()}{dead.note[1:].rstrip('.')}" if dead.note else ""
    return Finding(
        kind=Kind.DEAD,
        names=(name,),
        message=f"no torch and no triton reads {name}{note}",
        remedy=dead.use,
        where=where,
    )


def unknown_finding(name: str, known: Catalogue, installation: Installation, where: str = "") -> Finding | None:
    """A name that looks like torch's or triton's and that no installed file reads; None when one does."""
    if installation.readers_of(name):
        return None
    versions = ", ".join(f"{package} {version}" for package, version in installation.versions.items())
    near = nearest_name(name, known)
    return Finding(
        kind=Kind.UNKNOWN,
        names=(name,),
        message=f"nothing installed here reads {name} ({versions or 'neither torch nor triton is installed'})",
        remedy=f"did you mean {near}?" if near else "",
        where=where,
    )


_TRUE, _FALSE = ("1", "true", "yes", "on", "y"), ("0", "false", "no", "off", "n", "")


def _misread(variable: Variable, value: str, installation: Installation) -> str:
    """Why a word for on or off is not read as it is meant; empty when it is, or when the source does not say."""
    word = value.strip().lower()
    if variable.type != "bool" or word not in _TRUE + _FALSE:
        return ""
    for read in installation.look(variable).reads:
        if read.rule:
            got = read_as(read.rule, {variable.name: value})
            if isinstance(got, bool) and got is not (word in _TRUE):
                return f"{variable.name}={value} is read as {'on' if got else 'off'} ({read.file}:{read.line})"
    return ""


def _settings(environ: Mapping[str, str], known: Catalogue) -> tuple[Setting, ...]:
    found = []
    for name, value in sorted(environ.items()):
        variable = known.by_name.get(name)
        if variable is not None:
            found.append(Setting(name=name, value=value, subject=variable.subject, does=variable.does))
        elif name in known.dead_by_name or name.startswith(PREFIXES):
            found.append(Setting(name=name, value=value))
    return tuple(found)


def environment_at_start(path: Path = Path("/proc/self/environ")) -> dict[str, str] | None:
    """The variables that this process began with; None where the system does not keep them."""
    try:
        text = path.read_bytes().decode(errors="surrogateescape")
    except OSError:
        return None
    return dict(re.findall(r"([^=\0]+)=([^\0]*)\0?", text))


def _arrived(variable: Variable, value: str) -> bool:
    """Whether the field behind a variable holds what the value would have given."""
    if not variable.field:
        return False
    for module in variable.readers:
        source = sys.modules.get(module)
        path = getattr(source, "__file__", None)
        if source is None or path is None:
            continue
        for read in Installation.here().reads(f"{module.replace('.', '/')}.py"):
            if read.name == variable.name and read.field and read.rule:
                held: object = source
                for part in read.field.removeprefix(f"{module}.").split("."):
                    held = getattr(held, part, None)
                return bool(held == read_as(read.rule, {variable.name: value}))
    return False

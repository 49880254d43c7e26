"""What a script or notebook sets, and whether it does so in time: read as text, never run."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fuselab.env_vars.catalogue import Variable, catalogue
from fuselab.env_vars.findings import (
    PREFIXES,
    Finding,
    Kind,
    Report,
    Setting,
    dead_finding,
    judge,
    unknown_finding,
)
from fuselab.env_vars.installation import Installation
from fuselab.errors import UsageError

__all__ = ["report_of_script"]

BRINGS_TORCH = (
    *("torch", "torchvision", "torchaudio", "transformers", "diffusers", "accelerate", "lightning", "timm", "peft"),
    *("pytorch_lightning", "vllm", "liger_kernel", "torchao", "deepspeed", "flash_attn", "xformers", "sglang"),
)
"""Packages whose import imports torch."""
BRINGS_TRITON = ("triton", "liger_kernel", "flash_attn", "vllm", "xformers", "sglang")
BY_TORCH = ("torch", "torch._logging._internal", "torch.compiler.config", "torch.fx.experimental._config",
            "torch._subclasses.fake_tensor", "torch.distributed")  # fmt: skip
"""What `import torch` imports of the modules that read variables then."""
BY_TRITON = ("triton", "triton.knobs", "triton.backends")
BY_DYNAMO = (
    "torch._dynamo.config",
    "torch._inductor.config",
    "torch._functorch.config",
    "torch._inductor.exc",
    *BY_TRITON,
)
"""What the first call of torch.compile imports, as `import torch._dynamo` does."""
_USES_CUDA = re.compile(r"\.cuda\(|device\s*=\s*['\"]cuda|\.to\(\s*['\"]cuda|torch\.cuda\.(?!is_available)\w+\(")
_MAGIC = re.compile(r"^\s*%(?:set_)?env\s+(\w+)[ =]\s*(.*)$")


class _Event(NamedTuple):
    """Something a program does, in the order of its lines."""

    where: str
    imports: str = ""
    name: str = ""
    value: str = ""


def report_of_script(path: Path, installation: Installation) -> Report:
    """What a program sets, what comes after its reader was imported, what contradicts, what nothing reads.

    Only what stands in the file is seen, in the order of its lines; functions count where they stand.

    Raises:
        UsageError: there is no such file, or it is no Python.
    """
    known = catalogue()
    imported: dict[str, str] = {}
    settings: list[Setting] = []
    late: list[Finding] = []
    for event in _events(path):
        if event.imports:
            for module in _implied(event.imports):
                imported.setdefault(module, event.where)
            continue
        variable = known.by_name.get(event.name)
        if variable is None and event.name not in known.dead_by_name and not event.name.startswith(PREFIXES):
            continue
        settings.append(
            Setting(
                name=event.name,
                value=event.value,
                subject=variable.subject if variable else "",
                does=variable.does if variable else "",
                where=event.where,
            )
        )
        if variable is not None and (after := _late_after(variable, imported)):
            late.append(_late(variable, event.where, *after))
        elif variable is None and event.name in known.dead_by_name:
            late.append(dead_finding(event.name, known, event.where))
        elif variable is None and (finding := unknown_finding(event.name, known, installation, event.where)):
            late.append(finding)
    environ = {setting.name: setting.value for setting in settings}
    judged = [f for f in judge(environ, known, installation) if f.kind not in (Kind.DEAD, Kind.UNKNOWN)]
    return Report(settings=tuple(settings), findings=(*late, *judged))


def _late(variable: Variable, where: str, module: str, line: str) -> Finding:
    what = {"cuda": "CUDA is used", "nccl": "the process group is made"}.get(module, f"the import of {module}")
    what = what if module in ("cuda", "nccl") else f"{what}, which reads it once,"
    return Finding(
        kind=Kind.LATE,
        names=(variable.name,),
        message=f"{variable.name} is set after {what} at {line}",
        remedy=variable.instead
        or (f"set {variable.field}, or move the line up" if variable.field else "move the line up"),
        where=where,
    )


def _late_after(variable: Variable, imported: dict[str, str]) -> tuple[str, str] | None:
    """The import that came before, with its line."""
    for event in variable.too_late_after():
        if event in imported:
            return event, imported[event]
    return None


def _implied(module: str) -> Iterator[str]:
    """What an import makes of the modules that read variables: a package and what it always loads."""
    parts = module.split(".")
    yield from (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    if parts[0] in BRINGS_TORCH:
        yield from BY_TORCH
    if parts[:2] in (["torch", "_inductor"], ["torch", "_dynamo"]):
        yield from BY_DYNAMO
    if parts[0] in BRINGS_TRITON:
        yield from BY_TRITON


def _events(path: Path) -> Iterator[_Event]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}", hint="with --set the argument is a script or notebook"
        ) from error
    if path.suffix == ".ipynb":
        yield from _notebook_events(path, text)
    else:
        yield from _source_events(text, path.name)


def _notebook_events(path: Path, text: str) -> Iterator[_Event]:
    try:
        cells = json.loads(text)["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no notebook: {error}") from error
    for number, source in enumerate(sources, 1):
        lines = source.splitlines()
        for line in lines:
            if magic := _MAGIC.match(line):
                yield _Event(f"cell {number}", name=magic[1], value=magic[2].strip())
        plain = "\n".join("pass" if line.lstrip().startswith(("%", "!", "?")) else line for line in lines)
        yield from _source_events(plain, f"cell {number}")


def _source_events(text: str, place: str) -> Iterator[_Event]:
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise UsageError(
            f"{place}:{error.lineno}: {error.msg}", hint="the file must be Python to be looked through"
        ) from error
    lines = text.splitlines()
    events: list[tuple[int, _Event]] = []
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        where = f"{place}:{line}"
        if isinstance(node, ast.Import):
            events += [(line, _Event(where, imports=alias.name)) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            events.append((line, _Event(where, imports=node.module)))
        else:
            events += [(line, _Event(where, name=name, value=value)) for name, value in _set_by(node)]
    for number, line_text in enumerate(lines, 1):
        if _USES_CUDA.search(line_text.split("#")[0]):
            events.append((number, _Event(f"{place}:{number}", imports="cuda")))
        if re.search(r"\btorch\.compile\b", line_text.split("#")[0]):
            events.append((number, _Event(f"{place}:{number}", imports="torch._dynamo")))
        if "init_process_group(" in line_text:
            events.append((number, _Event(f"{place}:{number}", imports="nccl")))
    yield from (event for _, event in sorted(events, key=lambda pair: pair[0]))


def _set_by(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Names and values that one node writes into the environment."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            if (
                isinstance(target, ast.Subscript)
                and _is_environ(target.value)
                and isinstance(target.slice, ast.Constant)
            ):
                yield str(target.slice.value), _value(node.value)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        yield from _set_by_call(node, node.func)


def _set_by_call(node: ast.Call, called: ast.Attribute) -> Iterator[tuple[str, str]]:
    """``os.environ.setdefault(...)``, ``os.environ.update(...)`` and ``os.putenv(...)``."""
    function, arguments = called.attr, node.args
    if (function == "setdefault" and _is_environ(called.value)) or function == "putenv":
        if len(arguments) == 2 and isinstance(arguments[0], ast.Constant):
            yield str(arguments[0].value), _value(arguments[1])
    elif function == "update" and _is_environ(called.value):
        for keyword in node.keywords:
            if keyword.arg:
                yield keyword.arg, _value(keyword.value)
        for argument in arguments:
            if isinstance(argument, ast.Dict):
                for key, value in zip(argument.keys, argument.values, strict=True):
                    if isinstance(key, ast.Constant):
                        yield str(key.value), _value(value)


def _is_environ(node: ast.AST) -> bool:
    return (isinstance(node, ast.Attribute) and node.attr == "environ") or (
        isinstance(node, ast.Name) and node.id == "environ"
    )


def _value(node: ast.AST) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else ast.unparse(node)

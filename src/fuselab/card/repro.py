"""``repro.py``: a script beside a captured kernel that builds its inputs, runs it, checks it and times it alone.

Pure: text from facts. The script is :mod:`fuselab.card.repro_script`, read as text, with what is particular to the
kernel filled in as data; it imports nothing of this package.
"""

from __future__ import annotations

import pprint
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuselab.card.launch import LaunchArguments, ScalarArgument, TensorArgument
from fuselab.card.operators import Operators

__all__ = ["ReproFacts", "repro_script"]

_BEGIN, _END = "# [this kernel\n", "# this kernel]\n"


@dataclass(frozen=True)
class ReproFacts:
    """What a script is made from."""

    name: str
    """The kernel's true name."""
    backend: str
    """``cpp`` or ``triton``."""
    file: str
    """Its source, beside the script."""
    function: str
    """Name of the function in that source."""
    launch: LaunchArguments
    names: Sequence[str]
    """Names of the launch's arguments, in order."""
    roles: Mapping[str, str]
    """``input``, ``output`` or ``in-out`` by argument name; others are taken for inputs."""
    buffer_nodes: Mapping[str, str] = field(default_factory=dict)
    """Buffer to the graph node whose value it holds."""
    operators: Operators = field(default_factory=Operators)
    signature: Sequence[str] = ()
    """C types of a C++ kernel's arguments."""
    grid: tuple[int, int, int] | None = None
    config: Mapping[str, Any] | None = None
    """Block sizes of a Triton kernel."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """``num_warps``, ``num_stages`` and what else it was compiled with."""


def repro_script(facts: ReproFacts) -> str:
    """The script's text.

    Raises:
        ValueError: an argument is not known, so that the kernel cannot be launched; the message says which.
    """
    unknown = [
        argument for argument in facts.launch.arguments if not isinstance(argument, TensorArgument | ScalarArgument)
    ]
    if unknown:
        raise ValueError(f"an argument of its launch is not known: {unknown[0].reason}")
    kernel = {
        "name": facts.name,
        "backend": facts.backend,
        "file": facts.file,
        "function": facts.function,
        "signature": list(facts.signature),
        "names": list(facts.names),
        "buffers": _buffers(facts),
        "arguments": [_argument(facts, name, a) for name, a in zip(facts.names, facts.launch.arguments, strict=True)],
        "grid": None if facts.grid is None else list(facts.grid),
        "config": None if facts.config is None else dict(facts.config),
        "options": dict(facts.options),
        "drawn": list(facts.operators.drawn),
        "no_operators": facts.operators.reason,
    }
    template = Path(__file__).with_name("repro_script.py").read_text(encoding="utf-8")
    head, begin, rest = template.partition(_BEGIN)
    _, end, tail = rest.partition(_END)
    # The kernel is data of the script: whatever its name holds cannot become code.
    data = pprint.pformat(kernel, width=110, sort_dicts=False)
    own = f"KERNEL: dict[str, Any] = {data}\n\nOPERATORS = {facts.operators.source!r}\n"
    return head + begin + own + end + tail


def _role(facts: ReproFacts, name: str) -> str:
    return facts.roles.get(name, "input")


def _buffers(facts: ReproFacts) -> dict[str, dict[str, Any]]:
    """Each memory once: as long as its longest view, read if any argument reads it."""
    buffers: dict[str, dict[str, Any]] = {}
    for name, argument in zip(facts.names, facts.launch.arguments, strict=True):
        if not isinstance(argument, TensorArgument):
            continue
        whole = facts.launch.buffers.get(argument.buffer)
        elements = max(argument.offset + argument.elements, whole.elements if whole else 0)
        entry = buffers.setdefault(argument.buffer, {"dtype": argument.dtype, "elements": 0, "read": False})
        entry["elements"] = max(entry["elements"], elements)
        entry["read"] = entry["read"] or _role(facts, name) != "output"
    return buffers


def _argument(facts: ReproFacts, name: str, argument: Any) -> dict[str, Any]:
    if isinstance(argument, ScalarArgument):
        return {"value": argument.value}
    role = _role(facts, name)
    written = role != "input"
    node = argument_node(argument, facts.buffer_nodes) if written else None
    read = None if role == "output" else input_node(argument, facts.buffer_nodes, written)
    made = {
        "buffer": argument.buffer,
        "shape": argument.shape,
        "stride": argument.stride,
        "offset": argument.offset,
        "written": written,
        "node": node,
        "read_node": read,
        "read_shape": facts.operators.shapes.get(read or ""),
    }
    return made


def argument_node(argument: TensorArgument, buffer_nodes: Mapping[str, str]) -> str | None:
    """The graph node whose value an argument holds after a launch that writes it; None where it is not recorded."""
    return buffer_nodes.get(argument.name)


def input_node(argument: TensorArgument, buffer_nodes: Mapping[str, str], written: bool) -> str | None:
    """The graph node whose value an argument holds before the launch; None where it is not recorded."""
    name = (argument.was or argument.name) if written else argument.name
    # What is no buffer of the module's own is an input of the graph, which has its node's name.
    return buffer_nodes.get(name) or (None if name.startswith("buf") else name)

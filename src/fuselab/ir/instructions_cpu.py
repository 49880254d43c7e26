"""The vector widths of a CPU kernel, from its assembly as ``objdump`` or the compiler itself prints it.

Pure. x86-64 and AArch64; each instruction is counted once, as it stands.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

__all__ = ["AssemblyMix", "parse_assembly"]

_FUNCTION = re.compile(r"^(?:[0-9a-f]+ <(?P<objdump>[^>]+)>|(?P<gas>[A-Za-z_.$][\w.$@]*)):\s*$")
_OBJDUMP = re.compile(r"^\s+[0-9a-f]+:\t(?:(?:[0-9a-f]{2} )+\s*\t)?\s*(?P<text>[a-z].*)$")
_GAS = re.compile(r"^\s+(?P<text>[a-z][\w.]*(?:\s.*)?)$")
_ENCODING_ONLY = re.compile(r"^\s+[0-9a-f]+:\t(?:[0-9a-f]{2} )+\s*$")
_PREFIXES = frozenset({"lock", "rep", "repz", "repnz", "notrack", "bnd", "data16", "cs", "ds"})
_WIDTHS = ((re.compile(r"%?\bzmm\d+"), 512), (re.compile(r"%?\bymm\d+"), 256))
_XMM = re.compile(r"%?\bxmm\d+")
_NEON = re.compile(r"\bv\d+\.\d*[bhsd]\b")
_SVE = re.compile(r"\bz\d+\.[bhsd]\b")
_SCALAR_FLOAT = re.compile(
    r"^v?(?:\w+)s[sdh](?:x|z)?$|^v?u?comis[sdh]$|^v?cvt\w*s[sdh]\w*$|^vf?n?m(?:add|sub)\d+s[sd]$"
)
_GATHER = re.compile(r"^v?p?(?:gather|scatter)|^v?p?gather")


@dataclass
class AssemblyMix:
    """Instructions of a CPU kernel by the width of the registers that they work on."""

    functions: list[str] = field(default_factory=list)
    """Functions that were counted: the kernel and what its parallel regions were made into."""
    total: int = 0
    widths: Counter[str] = field(default_factory=Counter)
    """``512``, ``256``, ``128`` (bits), ``scalable``, ``scalar float`` or ``other`` to instructions."""
    gathers: int = 0
    calls: int = 0
    """Calls that were left: a vector function of the maths library, or a scalar one for each element."""

    def summary(self) -> dict[str, Any]:
        """As written to the kernel's card."""
        vector = sum(count for name, count in self.widths.items() if name not in ("other", "scalar float"))
        floating = vector + self.widths["scalar float"]
        return {
            "functions": self.functions,
            "static": self.total,
            "widths": dict(self.widths.most_common()),
            "vector_share": vector / floating if floating else 0.0,
            "gathers": self.gathers,
            "calls": self.calls,
        }


def parse_assembly(text: str, function: str = "") -> AssemblyMix:
    """Count the instructions of a function and of the functions that the compiler cut out of it.

    Args:
        text: the listing.
        function: the kernel's name in it; everything is counted if it is empty or not found.

    Raises:
        ValueError: the text holds no instruction.

    Example:
        >>> mix = parse_assembly("k:\\n\\tvmulps\\t%zmm0, %zmm1, %zmm2\\n\\taddss\\t%xmm0, %xmm1\\n\\tret\\n", "k")
        >>> sorted(mix.widths.items())
        [('512', 1), ('other', 1), ('scalar float', 1)]
    """
    by_function: dict[str, list[str]] = {"": []}
    objdump = any(_OBJDUMP.match(line) for line in text.splitlines())
    current = ""
    for line in text.splitlines():
        if (start := _FUNCTION.match(line)) is not None:
            name = start["objdump"] or start["gas"]
            if not name.startswith(".L"):
                current = name
                by_function.setdefault(current, [])
            continue
        match = (_OBJDUMP if objdump else _GAS).match(line)
        if match is not None and not _ENCODING_ONLY.match(line):
            by_function[current].append(match["text"])
    mine = {n: lines for n, lines in by_function.items() if lines and _belongs(n, function)}
    mine = mine or {n: lines for n, lines in by_function.items() if lines}
    if not mine:
        raise ValueError("no instruction in this text: it is not an assembly listing")
    mix = AssemblyMix(functions=[name for name in mine if name])
    for lines in mine.values():
        for line in lines:
            _count(mix, line)
    return mix


def _belongs(name: str, function: str) -> bool:
    """Whether a function is the kernel or a part of it (``kernel._omp_fn.0``, ``kernel.omp_outlined``)."""
    return bool(function) and (name == function or name.startswith(f"{function}."))


def _count(mix: AssemblyMix, line: str) -> None:
    words = line.split(maxsplit=1)
    while len(words) == 2 and words[0] in _PREFIXES:
        words = words[1].split(maxsplit=1)
    opcode, operands = words[0], words[1] if len(words) == 2 else ""
    operands = operands.partition("#")[0].partition("<")[0]
    mix.total += 1
    mix.calls += opcode.startswith(("call", "bl")) and opcode in ("call", "callq", "bl", "blr")
    mix.gathers += bool(_GATHER.match(opcode))
    mix.widths[_width(opcode, operands)] += 1


def _width(opcode: str, operands: str) -> str:
    for pattern, bits in _WIDTHS:
        if pattern.search(operands):
            return str(bits)
    if _XMM.search(operands):
        return "scalar float" if _SCALAR_FLOAT.match(opcode) else "128"
    if _SVE.search(operands):
        return "scalable"
    if _NEON.search(operands):
        return "128"
    return "scalar float" if opcode.startswith("f") and re.search(r"\b[sdh]\d+\b", operands) else "other"

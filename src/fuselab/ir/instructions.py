"""The instruction mix of a GPU kernel, from its SASS as ``nvdisasm`` or ``cuobjdump`` prints it.

Pure. Counts are of the code as it stands (both sides of a branch count), weighted by how often each loop runs where
that is known. Padding, and what lies behind the last unconditional exit (the slow paths of divisions, called when a
number is denormal), are not counted.

Classes follow the pipes that execute the instructions; names are those of "CUDA Binary Utilities", *Instruction Set
Reference*.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["InstructionMix", "SassLoop", "classify", "parse_sass"]

_LINE = re.compile(
    r"^\s*/\*(?P<address>[0-9a-f]{4,})\*/\s+(?:@(?P<predicate>!?U?P\w+)\s+)?(?P<opcode>[A-Z][A-Z0-9_]*)"
    r"(?P<modifiers>(?:\.[A-Za-z0-9_]+)*)(?P<operands>[^;]*);?"
)
_LABEL = re.compile(r"^\s*(?P<label>\.L_\w+):")
_TARGET = re.compile(r"\(?(?P<label>\.L_\w+)\)?|\s(?P<address>0x[0-9a-f]+)\s*$")
_FUNCTION = re.compile(r"^\s*\.text\.(?P<nvdisasm>\S+):\s*$|^\s*Function : (?P<cuobjdump>\S+)")
_WIDTHS = {"U8": 8, "S8": 8, "U16": 16, "S16": 16, "64": 64, "128": 128, "256": 256}

_EXACT = {
    "LDG": "global load",
    "LD": "global load",
    "LDGSTS": "global load",
    "STG": "global store",
    "ST": "global store",
    "RED": "global atomic",
    "REDG": "global atomic",
    "ATOM": "global atomic",
    "ATOMG": "global atomic",
    "LDL": "spill",
    "STL": "spill",
    "LDS": "shared",
    "STS": "shared",
    "LDSM": "shared",
    "STSM": "shared",
    "ATOMS": "shared",
    "SHFL": "exchange",
    "REDUX": "exchange",
    "VOTE": "exchange",
    "VOTEU": "exchange",
    "MATCH": "exchange",
    "MUFU": "special",
    "LDC": "constant",
    "LDCU": "constant",
    "ULDC": "constant",
    "BAR": "barrier",
    "DEPBAR": "barrier",
    "LDGDEPBAR": "barrier",
    "WARPSYNC": "barrier",
    "SYNCS": "barrier",
    "MEMBAR": "barrier",
    "FENCE": "barrier",
    "ERRBAR": "barrier",
    "CCTL": "barrier",
    "FSETP": "float",
    "FSET": "float",
    "FSEL": "float",
    "FCHK": "float",
    "FRND": "conversion",
    "F2F": "conversion",
    "F2FP": "conversion",
    "F2I": "conversion",
    "F2IP": "conversion",
    "I2F": "conversion",
    "I2FP": "conversion",
    "I2I": "conversion",
    "I2IP": "conversion",
    "MOV": "move",
    "SEL": "move",
    "PRMT": "move",
    "CS2R": "move",
    "S2R": "move",
    "S2UR": "move",
    "R2UR": "move",
    "R2P": "move",
    "P2R": "move",
    "UMOV": "move",
    "USEL": "move",
    "UPRMT": "move",
    "MOVM": "move",
    "PLOP3": "integer",
}
_PREFIXES = (
    (("HMMA", "IMMA", "DMMA", "BMMA", "QMMA", "OMMA", "HGMMA", "IGMMA", "QGMMA", "BGMMA", "UTC"), "tensor"),
    (("UTMA", "UBLK", "LDTM", "STTM"), "bulk copy"),
    (("FADD", "FMUL", "FFMA", "FMNMX", "FSWZ"), "float"),
    (("HADD2", "HMUL2", "HFMA2", "HSET2", "HSETP2", "HMNMX2"), "half"),
    (("DADD", "DMUL", "DFMA", "DSETP", "DMNMX", "CLMAD"), "double"),
    (
        ("IADD", "IMAD", "IMUL", "ISETP", "ISET", "IABS", "IMNMX", "IDP", "ISCADD", "LEA", "LOP", "SHF", "SHL", "SHR"),
        "integer",
    ),
    (("VIADD", "VIMNMX", "VABSDIFF", "POPC", "FLO", "BREV", "SGXT", "BMSK", "BMOV", "LEPC"), "integer"),
    (
        ("UIADD", "UIMAD", "UIMNMX", "UISETP", "ULEA", "ULOP", "USHF", "USGXT", "UFLO", "UPOPC", "UBREV", "UBMSK"),
        "uniform",
    ),
    (("UP2UR", "UR2UP", "UPLOP3", "UF", "UI2F", "UVI", "UMEMSETS"), "uniform"),
    (
        ("BRA", "BRX", "JMP", "CALL", "RET", "EXIT", "BSSY", "BSYNC", "BREAK", "NOP", "YIELD", "NANOSLEEP", "KILL"),
        "control",
    ),
    (("WARPGROUP", "ELECT", "UCGABAR", "ACQBULK", "PREEXIT", "ENDCOLLECTIVE", "COLLECTIVE", "BPT", "UWARP"), "control"),
)


@dataclass(frozen=True)
class SassLoop:
    """A backward branch and what it repeats."""

    first: int
    """Address of the first instruction."""
    last: int
    """Address of the branch."""
    trips: int | None
    """How often it runs; None where unknown."""


@dataclass
class InstructionMix:
    """Instructions of one kernel by class and, for what touches memory, by width."""

    function: str = ""
    total: float = 0
    """Instructions that one warp executes."""
    classes: Counter[str] = field(default_factory=Counter)
    """Class to instructions that one warp executes."""
    accesses: Counter[str] = field(default_factory=Counter)
    """``LDG.128``: opcode and bits of each global, shared and spill access."""
    static: int = 0
    """Instructions as they stand, whatever the loops do."""
    load_rounds: int = 0
    """How often a program's global loads wait for those before: loads up to the next barrier of the block go together,
    since what was loaded before it went through shared memory; a loop's turns go one after the other."""
    loops: list[SassLoop] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    """Why the counts are not exact."""
    unknown: Counter[str] = field(default_factory=Counter)
    """Opcodes of no class known here; counted in the total."""

    def share(self, *names: str) -> float:
        """What part of all instructions is of these classes."""
        return sum(self.classes[name] for name in names) / self.total if self.total else 0.0

    def summary(self) -> dict[str, Any]:
        """As written to the kernel's card."""
        return {
            "per_warp": self.total,
            "static": self.static,
            "classes": dict(self.classes.most_common()),
            "accesses": dict(sorted(self.accesses.items())),
            "special_share": self.share("special"),
            "integer_share": self.share("integer", "uniform"),
            "conversion_share": self.share("conversion"),
            "load_rounds": self.load_rounds,
            "loops": [vars(loop) for loop in self.loops],
            "unknown_opcodes": dict(self.unknown),
            "reasons": self.reasons,
        }


@dataclass(frozen=True)
class _Instruction:
    address: int
    opcode: str
    modifiers: tuple[str, ...]
    predicate: str
    operands: str


_BLOCK_BARRIERS = ("BAR", "SYNCS")
"""What all warps of a block wait at."""


def classify(opcode: str) -> str:
    """Class of an opcode; empty for one that is not known.

    Example:
        >>> [classify(opcode) for opcode in ("LDG", "MUFU", "IMAD", "FFMA", "F2FP", "XYZ")]
        ['global load', 'special', 'integer', 'float', 'conversion', '']
    """
    if opcode in _EXACT:
        return _EXACT[opcode]
    return next((name for prefixes, name in _PREFIXES if opcode.startswith(prefixes)), "")


def parse_sass(text: str, function: str = "", trips: Sequence[int | None] = ()) -> InstructionMix:
    """Count the instructions of one function.

    Args:
        text: the listing, of one or several functions.
        function: the function's name; the first one if empty.
        trips: how often each loop of the source runs, in order of the loops' beginnings. They are taken for the
            machine's loops if there are as many, or fewer that all turn equally often, some of them being unrolled;
            else a loop counts once and ``reasons`` says so.

    Raises:
        ValueError: the listing holds no instruction of that function.

    Example:
        >>> mix = parse_sass('''
        ...         /*0000*/                   LDG.E.128 R4, desc[UR4][R4.64] ;
        ...         /*0010*/                   MUFU.EX2 R4, R4 ;
        ...         /*0020*/                   EXIT ;
        ... ''')
        >>> mix.accesses["LDG.128"], mix.share("special") == 1 / 3
        (1, True)
    """
    instructions, labels, name = _instructions(text, function)
    if not instructions:
        raise ValueError(f"no SASS instruction{f' of {function}' if function else ''} in this text")
    mix = InstructionMix(function=name)
    found = _loops(instructions, labels)
    known: list[int | None] = list(trips) if len(trips) == len(found) else [None] * len(found)
    unrolled = len(trips) - len(found)
    if 0 < unrolled < len(trips) and len(set(trips)) == 1 and trips[0] is not None:
        known = [trips[0]] * len(found)  # whichever of them are left
    if unrolled:
        count = f"{len(found)} loops in the machine code and {len(trips)} in the source"
        mix.reasons.append(
            f"the compiler unrolled {unrolled} loops of the source"
            if not found
            else f"{count}: each machine loop is counted once"
            if None in known
            else f"{count}, which all turn {trips[0]} times: the compiler unrolled {unrolled}"
        )
    mix.loops = [SassLoop(first, last, count) for (first, last), count in zip(found, known, strict=True)]
    if found and any(loop.trips is None for loop in mix.loops) and len(trips) == len(found):
        mix.reasons.append("a loop's length depends on data: it is counted once")
    end = _end(instructions)
    together: tuple[SassLoop, ...] | None = None  # the loops around the loads since the last barrier
    for instruction in instructions:
        if instruction.address > end or instruction.opcode == "NOP":
            continue
        around = tuple(loop for loop in mix.loops if loop.first <= instruction.address <= loop.last)
        weight = math.prod(loop.trips for loop in around if loop.trips is not None)
        _count(mix, instruction, weight)
        if instruction.opcode in _BLOCK_BARRIERS:
            together = None
        elif classify(instruction.opcode) == "global load" and together != around:
            together = around
            mix.load_rounds += weight
    return mix


def _count(mix: InstructionMix, instruction: _Instruction, weight: int) -> None:
    kind = classify(instruction.opcode)
    mix.static += 1
    mix.total += weight
    mix.classes[kind or "other"] += weight
    if not kind:
        mix.unknown[instruction.opcode] += weight
    if kind in ("global load", "global store", "global atomic", "shared", "spill"):
        width = next((_WIDTHS[m] for m in reversed(instruction.modifiers) if m in _WIDTHS), 32)
        mix.accesses[f"{instruction.opcode}.{width}"] += weight


def _instructions(text: str, function: str) -> tuple[list[_Instruction], dict[str, int], str]:
    found: list[_Instruction] = []
    labels: dict[str, int] = {}
    waiting: list[str] = []
    name = ""
    mine = True
    for line in text.splitlines():
        if (start := _FUNCTION.match(line)) is not None:
            this = start["nvdisasm"] or start["cuobjdump"]
            if found and mine:
                break
            mine = not function or this == function
            name = this if mine else name
            continue
        if not mine:
            continue
        if (label := _LABEL.match(line)) is not None:
            waiting.append(label["label"])
            continue
        match = _LINE.match(line)
        if match is None:
            continue
        address = int(match["address"], 16)
        labels.update(dict.fromkeys(waiting, address))
        waiting.clear()
        modifiers = tuple(m for m in match["modifiers"].split(".") if m)
        found.append(_Instruction(address, match["opcode"], modifiers, match["predicate"] or "", match["operands"]))
    return found, labels, name


def _loops(instructions: list[_Instruction], labels: dict[str, int]) -> list[tuple[int, int]]:
    """Ranges that backward branches repeat, in order of their beginnings; one a beginning."""
    ranges: dict[int, int] = {}
    for instruction in instructions:
        if instruction.opcode not in ("BRA", "JMP"):
            continue
        match = _TARGET.search(instruction.operands)
        if match is None:
            continue
        target = labels.get(match["label"]) if match["label"] else int(match["address"], 16)
        # The code ends in a branch to itself, which nothing reaches.
        if target is not None and target < instruction.address:
            ranges[target] = max(ranges.get(target, 0), instruction.address)
    return sorted(ranges.items())


def _end(instructions: list[_Instruction]) -> int:
    """Address of the last exit that every thread takes: behind it are slow paths and padding."""
    exits = [i.address for i in instructions if i.opcode == "EXIT" and not i.predicate]
    return exits[-1] if exits else instructions[-1].address

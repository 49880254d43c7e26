"""Which lines of a kernel's source each line of a lower stage comes from, by the stage's own location records. Pure.

Every stage of the way down carries locations of its own: ``loc(...)`` in Triton's MLIR, ``!DILocation`` in LLVM IR,
``.loc`` in PTX and AMD assembly, the debug sections that ``nvdisasm -g -gp`` and ``objdump -l --inlines`` print beside
instructions. What a call was inlined from is followed outwards until the kernel's own file is reached, so that an
instruction of a helper belongs to the line of the kernel that called it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath

from fuselab.ir.locations_assembly import assembly_frames
from fuselab.ir.locations_llvm import llvm_frames
from fuselab.ir.locations_mlir import mlir_frames
from fuselab.ir.locations_ptx import amdgcn_frames, ptx_frames, sass_frames
from fuselab.records import Stage

__all__ = ["Frame", "LineTable", "invert", "own_file", "source_lines"]

Frame = tuple[str, int]
"""File and line; a file without a directory stands for any directory."""

LineTable = dict[int, tuple[int, ...]]
"""Line of one text to lines of another, both from 1."""

_READERS: dict[Stage, Callable[[str], Mapping[int, tuple[Frame, ...]]]] = {
    Stage.TTIR: mlir_frames,
    Stage.TTGIR: mlir_frames,
    Stage.LLIR: llvm_frames,
    Stage.PTX: ptx_frames,
    Stage.AMDGCN: amdgcn_frames,
    Stage.ASSEMBLY: assembly_frames,
}


def source_lines(stage: Stage, text: str, source: str, ptx: str | None = None) -> LineTable:
    """Lines of the kernel's source for every line of a stage that has some.

    Args:
        stage: which stage the text is of.
        text: the text.
        source: the file that the kernel was compiled from, as the compiler knew it.
        ptx: for SASS, the PTX it was assembled from: only there it stands what a helper was inlined from.

    Example:
        >>> source_lines(Stage.PTX, '.file 1 "/c/k.py"\\n.loc 1 7 0\\nmov.u32 %r1, 0;', "/c/k.py")
        {3: (7,)}
    """
    reader = _READERS.get(stage)
    if stage is Stage.SASS:
        frames: Mapping[int, tuple[Frame, ...]] = sass_frames(text, ptx_frames(ptx) if ptx else {})
    elif reader is not None:
        frames = reader(text)
    else:
        return {}
    table: LineTable = {}
    for line, chain in frames.items():
        mine = tuple(dict.fromkeys(at for file, at in chain if at > 0 and _same(file, source)))
        if mine:
            table[line] = mine
    return table


def own_file(text: str) -> str:
    """The file that the first function of a TTIR or TTGIR text was written in; empty where it does not say.

    Example:
        >>> own_file('#loc = loc("/c/k.py":18:0)')
        '/c/k.py'
    """
    from fuselab.ir.locations_mlir import first_file

    return first_file(text)


def invert(table: Mapping[int, Iterable[int]]) -> LineTable:
    """The way back: line of the source to lines of the stage.

    Example:
        >>> invert({3: (7,), 4: (7, 8)})
        {7: (3, 4), 8: (4,)}
    """
    found: dict[int, list[int]] = {}
    for line, sources in table.items():
        for source in sources:
            found.setdefault(source, []).append(line)
    return {source: tuple(lines) for source, lines in sorted(found.items())}


def _same(file: str, source: str) -> bool:
    """Whether two paths name one file; a bare name matches that name in any directory."""
    if file == source:
        return True
    return ("/" not in file or "/" not in source) and PurePath(file).name == PurePath(source).name

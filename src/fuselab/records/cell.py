"""What names a cell: the workload that goes in, the direction, and the key that the store finds the cell by."""

from __future__ import annotations

import enum
import hashlib
import re

import msgspec

from fuselab.records.record import Record, Scalar

DTYPES: dict[str, str] = {
    "bf16": "bfloat16",
    "f16": "float16",
    "f32": "float32",
    "f64": "float64",
    "i64": "int64",
    "i32": "int32",
    "i16": "int16",
    "i8": "int8",
    "u8": "uint8",
    "bool": "bool",
}
"""Short dtype names, as written on the command line, to torch's own."""

_UNSAFE = re.compile(r"[^A-Za-z0-9.=_+-]+")


class Direction(enum.StrEnum):
    """Which half of a training step a cell is about."""

    FORWARD = "forward"
    BACKWARD = "backward"


class Workload(Record, frozen=True, kw_only=True):
    """Axes, dtype, options, layout and seed: inputs are built from these and nothing else, deterministically.

    Example:
        >>> Workload(shape=(64, 256), dtype="f32", options={"approximate": "tanh"}).label
        '64x256 f32 approximate=tanh'
    """

    shape: tuple[int, ...] = ()
    """Shape of the main input, row-major, the normalised axis last; empty for a user's own function."""
    dtype: str = "f32"
    """Short dtype name (a key of ``DTYPES``) of the main input."""
    options: dict[str, Scalar] = {}
    """The experiment's own options, all of them, defaults included."""
    arguments: dict[str, str] = {}
    """For a user's own function: parameter name to the text of its ``--arg``."""
    layout: str = "contiguous"
    """``contiguous``, or the name of another layout that the experiment knows."""
    seed: int = 0
    """Seed of the inputs."""

    @property
    def label(self) -> str:
        """One line for a table: shape, dtype, options."""
        if self.arguments:
            return " ".join(f"{name}={text}" for name, text in self.arguments.items())
        parts = ["x".join(map(str, self.shape)) or "default", self.dtype if self.shape else ""]
        parts += [f"{name}={value}" for name, value in self.options.items()]
        if self.layout != "contiguous":
            parts.append(self.layout)
        return " ".join(p for p in parts if p)

    @property
    def key(self) -> str:
        """A file-system-safe name, unique per workload: the label's start and a hash of all fields."""
        digest = hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:8]
        return f"{_UNSAFE.sub('_', self.label)[:48].strip('_.')}-{digest}"

    @property
    def rows(self) -> int:
        """Product of all axes but the last."""
        rows = 1
        for axis in self.shape[:-1]:
            rows *= axis
        return rows


class CellKey(Record, frozen=True, kw_only=True, order=True):
    """What names a cell within the store: experiment, variant, workload key and direction."""

    experiment: str
    """Name of the experiment."""
    variant: str
    """Name of the variant."""
    workload: str
    """``Workload.key``."""
    direction: Direction
    """Forward or backward."""

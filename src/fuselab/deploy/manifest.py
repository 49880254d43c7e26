"""What a package says of itself: ``manifest.json``, its records and their validation.

Schema version 1. JSON only; every field is typed and every number bounded, so that a hostile manifest is refused here
and not where its figures are used. Nothing here imports torch.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec

from fuselab.errors import StoreError
from fuselab.records import Workload

__all__ = [
    "MANIFEST",
    "SCHEMA_VERSION",
    "Aoti",
    "Call",
    "Compilation",
    "File",
    "Library",
    "Machine",
    "Manifest",
    "Reference",
    "Step",
    "TensorFile",
    "Value",
    "decode_manifest",
]

SCHEMA_VERSION = 1
"""Version of the package format; a reader refuses a newer one."""

MANIFEST = "manifest.json"

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(?:/[A-Za-z0-9_][A-Za-z0-9._+-]*)*")
_LONGEST_NAME = 240
_TYPES = frozenset(
    (
        *("bfloat16", "float16", "float32", "float64", "complex64", "complex128"),
        *("int64", "int32", "int16", "int8", "uint8", "bool"),
    )
)

Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Extent = Annotated[int, msgspec.Meta(ge=0, le=2**48)]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the records of a manifest: immutable, keyword-only."""


class File(Part, frozen=True, kw_only=True):
    """One file of the package."""

    name: str
    """Path within the package: plain parts joined by ``/``."""
    size: Count
    """Bytes."""
    sha256: Sha256
    """Checksum of its bytes."""


class TensorFile(Part, frozen=True, kw_only=True):
    """One tensor: raw little-endian elements in a file of their own, as they lay in memory."""

    file: str
    """Name of the file: the elements from the first to the last that the tensor reaches."""
    dtype: str
    """torch's name of the dtype."""
    shape: list[Extent]
    """Sizes."""
    stride: list[Extent]
    """Strides in elements."""
    requires_grad: bool = False
    """Whether a gradient is taken with respect to it."""


class Value(Part, frozen=True, kw_only=True):
    """One argument: a tensor, a plain value, or a list, tuple or dict of them. Exactly one field is set."""

    tensor: TensorFile | None = None
    plain: bool | int | float | str | None = None
    number: str | None = None
    """A float that JSON has no word for: ``nan``, ``inf``, ``-inf``."""
    sequence: list[Value] | None = None
    is_tuple: bool = False
    mapping: dict[str, Value] | None = None


class Reference(Part, frozen=True, kw_only=True):
    """Where the model comes from."""

    name: str = ""
    """Name of a registered experiment; empty for a user's own code."""
    target: str = ""
    """For a user's own code: ``FILE.py:NAME``, the file's name without its directory."""
    source: str = ""
    """Name of the packed copy of that file."""
    arguments: list[str] = []
    """Texts of ``--arg``."""
    seed: int = 0
    """Seed of parameters and inputs."""


class Compilation(Part, frozen=True, kw_only=True):
    """How the model was compiled."""

    mode: str | None = None
    """``torch.compile``'s mode."""
    dynamic: bool | None = False
    """``torch.compile``'s ``dynamic``."""
    options: dict[str, bool | int | float | str] = {}
    """Inductor settings."""


class Machine(Part, frozen=True, kw_only=True):
    """What built code depends on: versions, ABI, instruction set, GPU."""

    torch: str
    """Version, with its build (``2.13.0+cpu``)."""
    triton: str | None
    """Version; None where it is not installed."""
    cuda: str | None
    """CUDA (or ROCm) version that torch was built for."""
    python: str
    """ABI of the interpreter: ``cpython-311``."""
    system: str
    """``Linux``."""
    architecture: str
    """``x86_64``, ``aarch64``."""
    libc: str
    """``glibc 2.36``."""
    device_type: str
    """``cpu`` or ``cuda``."""
    device: str
    """Model of the GPU, or of the processor."""
    capability: str | None = None
    """Compute capability of the GPU: ``9.0``."""
    cpu_isa: str = ""
    """What torch dispatches to: ``AVX512``, ``AVX2``, ``DEFAULT``."""
    cpu_features: list[str] = []
    """Instruction set extensions of the processor: code is built for the machine that packs."""
    cpu_threads: Count = 0
    """Threads that CPU kernels are generated for."""
    variables: dict[str, str] = {}
    """Variables that change what torch and triton generate."""


class Library(Part, frozen=True, kw_only=True):
    """A built C++ kernel."""

    key: Sha256
    """Hash of what it was built from (see ``internals``)."""
    file: str
    """Name of the shared library."""


class Aoti(Part, frozen=True, kw_only=True):
    """An AOTInductor package of one call's forward."""

    file: str = ""
    """Name of the ``.pt2``; empty where the model does not export."""
    reason: str = ""
    """Why there is none: what torch said, with the user's line."""
    outputs: str = ""
    """How the outputs are put together, as torch's pytree writes it."""
    constants: dict[str, str] = {}
    """Constants inside (names of the loader) by name of the model's parameter or buffer."""


class Step(Part, frozen=True, kw_only=True):
    """The golden half of a call in one direction."""

    outputs: dict[str, TensorFile]
    """Eager's outputs by name."""
    references: dict[str, TensorFile] = {}
    """The same in float64; empty where the model refuses float64."""
    grad_outputs: dict[str, TensorFile] = {}
    """Where the backward starts, by name of the output."""
    gradients: dict[str, TensorFile] = {}
    """Eager's gradients by name."""
    gradient_references: dict[str, TensorFile] = {}
    """The same in float64."""


class Call(Part, frozen=True, kw_only=True):
    """One declared call: its arguments, what eager answered, and how it starts."""

    label: str
    """One line for a table."""
    workload: Workload
    """What the arguments were built from."""
    args: list[Value]
    """Golden inputs by position."""
    kwargs: dict[str, Value] = {}
    """Golden inputs by name."""
    names: list[str] = []
    """Names of ``args``."""
    random: bool = False
    """Whether two calls of eager differ: it is compared given the randomness that it drew."""
    parameters_sha256: str = ""
    """Hash of the model's parameters and buffers."""
    forward: Step | None = None
    """Inference: no gradients, modules in eval mode."""
    backward: Step | None = None
    """A training step: gradients, modules in train mode."""
    backward_reason: str = ""
    """Why there is no backward although it was asked for."""
    aoti: Aoti = Aoti()
    """The forward, ahead of time."""


class Manifest(Part, frozen=True, kw_only=True):
    """Everything that a package says of itself."""

    fuselab: str
    """Version of fuselab that wrote it."""
    created_at: str
    """UTC, ISO 8601."""
    machine: Machine
    """What it needs."""
    model: Reference
    """Where the model comes from."""
    compilation: Compilation
    """How it was compiled."""
    calls: list[Call]
    """The declared calls."""
    files: list[File]
    """Every other file of the package."""
    artifacts: str = ""
    """Name of the file with torch's portable cache artifacts."""
    artifact_counts: dict[str, Count] = {}
    """How many artifacts of each kind are inside."""
    libraries: list[Library] = []
    """Built C++ kernels."""
    triton_libraries: list[str] = []
    """Names of what Triton built with the host's C compiler: launchers and driver helpers."""
    seconds: dict[str, float] = {}
    """What packing spent on each step."""
    variant: str = "compile"
    """The experiment's variant that was compiled."""
    warnings: list[str] = []
    """What the package does not have, and why."""
    schema_version: int = SCHEMA_VERSION
    """Version of this format."""

    @property
    def directions(self) -> list[str]:
        """``forward``, ``backward`` or both."""
        found = [name for name in ("forward", "backward") if any(getattr(c, name) for c in self.calls)]
        return found

    @property
    def has_aoti(self) -> bool:
        """Whether every forward has an AOTInductor package."""
        return bool(self.calls) and all(call.aoti.file for call in self.calls if call.forward)


class _Version(msgspec.Struct):
    schema_version: int


def check_name(name: str) -> str:
    """The name, if it is one that a package may use: relative, plain parts, nothing hidden.

    Raises:
        StoreError: it is not.

    Example:
        >>> check_name("golden/0/x.bin")
        'golden/0/x.bin'
    """
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        raise StoreError(
            f"the package has a file named {name[:80]!r}", hint="fuselab writes no such names; do not use this package"
        )
    return name


def decode_manifest(data: bytes, where: str) -> Manifest:
    """The manifest in ``data``, validated: schema, names, and every file that is referred to is listed.

    Raises:
        StoreError: names what is wrong.
    """
    try:
        version = msgspec.json.decode(data, type=_Version).schema_version
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{where} has format {version}, newer than the {SCHEMA_VERSION} that this fuselab reads",
                hint="pip install --upgrade fuselab, or pack again with this one",
            )
        manifest: Manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, RecursionError) as error:
        raise StoreError(f"{where} has a damaged manifest: {error}", hint="pack again") from error
    listed = [check_name(file.name) for file in manifest.files]
    if len(set(listed)) != len(listed):
        raise StoreError(f"{where} lists a file twice", hint="pack again")
    known = set(listed)
    for name in _referred(manifest):
        if name and name not in known:
            raise StoreError(f"{where} refers to {name[:80]!r}, which it does not list", hint="pack again")
    sizes = {file.name: file.size for file in manifest.files}
    for tensor in _tensors(msgspec.to_builtins(manifest.calls)):
        _check_tensor(msgspec.convert(tensor, TensorFile), sizes, where)
    return manifest


def _referred(manifest: Manifest) -> list[str]:
    names = [manifest.artifacts, manifest.model.source, *manifest.triton_libraries]
    names += [library.file for library in manifest.libraries]
    names += [call.aoti.file for call in manifest.calls]
    return names + [tensor["file"] for tensor in _tensors(msgspec.to_builtins(manifest.calls))]


def _tensors(node: Any) -> list[dict[str, Any]]:
    """Every ``TensorFile`` below a document."""
    if isinstance(node, dict):
        if "stride" in node and "dtype" in node and "file" in node:
            return [node]
        return [found for value in node.values() for found in _tensors(value)]
    if isinstance(node, list):
        return [found for value in node for found in _tensors(value)]
    return []


def _check_tensor(tensor: TensorFile, sizes: dict[str, int], where: str) -> None:
    """The elements that shape and strides reach must lie within the file."""
    if tensor.dtype not in _TYPES or len(tensor.shape) != len(tensor.stride) or len(tensor.shape) > 64:
        raise StoreError(f"{where}: {tensor.file} is no tensor that fuselab writes", hint="pack again")
    if sizes.get(tensor.file, -1) != span(tensor) * element_size(tensor.dtype):
        raise StoreError(
            f"{where}: {tensor.file} has {sizes.get(tensor.file)} bytes; shape {tensor.shape} needs "
            f"{span(tensor) * element_size(tensor.dtype)}",
            hint="pack again",
        )


def span(tensor: TensorFile) -> int:
    """Elements from the first to the last that a tensor reaches.

    Example:
        >>> span(TensorFile(file="x", dtype="float32", shape=[2, 3], stride=[4, 1]))
        7
    """
    if 0 in tensor.shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride, strict=True))


def element_size(dtype: str) -> int:
    """Bytes of one element.

    Example:
        >>> element_size("bfloat16"), element_size("bool"), element_size("complex64")
        (2, 1, 8)
    """
    if dtype == "bool":
        return 1
    bits = int(re.sub(r"\D", "", dtype))
    return bits // 8

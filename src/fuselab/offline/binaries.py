"""What a compiled kernel takes of a device, read from its binary: no driver, no tool. Pure: bytes in, figures out.

NVIDIA's cubin is an ELF file whose ``.nv.info`` section lists attributes (format, attribute, size, payload), among
them the registers and the stack frame of each function. AMD's code object carries a MessagePack note of type 32, see
LLVM's "User Guide for AMDGPU Backend", code object V5.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

__all__ = ["BinaryResources", "resources"]

_ELF = b"\x7fELF"
_NV_FRAME_SIZE = 0x11
_NV_REGISTER_COUNT = 0x2F
_NV_VALUES = 0x04
_AMD_METADATA_NOTE = 32
_SYMBOL_TABLE = 2
_NOTE = 7


@dataclass(frozen=True)
class BinaryResources:
    """What one function takes."""

    registers: int = 0
    """Registers a thread."""
    local_bytes: int = 0
    """Local (AMD: scratch) memory a thread: where spilled registers go."""


@dataclass(frozen=True)
class _Section:
    name: str
    kind: int
    link: int
    data: bytes


def resources(binary: bytes, name: str) -> BinaryResources:
    """Registers and local memory of the function ``name``.

    Raises:
        ValueError: it is no 64-bit ELF file, or has no such function.
    """
    sections = list(_sections(binary))
    found = _nvidia(sections, name)
    if found is None:
        found = _amd(sections, name)
    if found is None:
        raise ValueError(f"the binary says nothing of a function {name!r}")
    return found


def _sections(binary: bytes) -> Iterator[_Section]:
    if binary[:4] != _ELF or len(binary) < 64 or binary[4] != 2:
        raise ValueError("not a 64-bit ELF file")
    (offset,) = struct.unpack_from("<Q", binary, 40)
    size, count, names_index = struct.unpack_from("<HHH", binary, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", binary, offset + index * size) for index in range(count)]
    names = headers[names_index] if names_index < len(headers) else None
    for header in headers:
        name, kind, _, _, start, length, link = header[:7]
        text = "" if names is None else _string(binary, names[4] + name)
        yield _Section(text, kind, link, b"" if kind == 8 else binary[start : start + length])


def _string(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode("utf-8", "replace")


def _nvidia(sections: list[_Section], name: str) -> BinaryResources | None:
    symbols = next((s for s in sections if s.kind == _SYMBOL_TABLE), None)
    info = next((s for s in sections if s.name == ".nv.info"), None)
    if symbols is None or info is None:
        return None
    strings = sections[symbols.link].data
    index = next(
        (
            number
            for number, entry in enumerate(struct.iter_unpack("<IBBHQQ", symbols.data))
            if _string(strings, entry[0]) == name
        ),
        None,
    )
    values = {kind: value for kind, symbol, value in _attributes(info.data) if symbol == index}
    if _NV_REGISTER_COUNT not in values:
        return None
    return BinaryResources(values[_NV_REGISTER_COUNT], values.get(_NV_FRAME_SIZE, 0))


def _attributes(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Attribute, symbol and value of those that are such a pair."""
    offset = 0
    while offset + 4 <= len(data):
        form, attribute, size = struct.unpack_from("<BBH", data, offset)
        offset += 4
        if form != _NV_VALUES:  # the two bytes of the size are the value itself
            continue
        if size == 8:
            symbol, value = struct.unpack_from("<II", data, offset)
            yield attribute, symbol, value
        offset += size


def _amd(sections: list[_Section], name: str) -> BinaryResources | None:
    for section in sections:
        if section.kind != _NOTE:
            continue
        for kind, payload in _notes(section.data):
            if kind != _AMD_METADATA_NOTE:
                continue
            metadata: dict[str, Any] = msgspec.msgpack.decode(payload)
            for kernel in metadata.get("amdhsa.kernels", ()):
                if kernel.get(".name") == name:
                    return BinaryResources(
                        int(kernel.get(".vgpr_count", 0)), int(kernel.get(".private_segment_fixed_size", 0))
                    )
    return None


def _notes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 12 <= len(data):
        name_size, size, kind = struct.unpack_from("<III", data, offset)
        start = offset + 12 + (name_size + 3) // 4 * 4
        yield kind, data[start : start + size]
        offset = start + (size + 3) // 4 * 4

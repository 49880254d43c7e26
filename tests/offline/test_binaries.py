"""Resources read from binaries, against the tool that NVIDIA ships for it and against what is no binary."""

from __future__ import annotations

import struct

import msgspec
import pytest

from fuselab.offline.binaries import resources


def section(kind: int, name: int, offset: int, size: int, link: int = 0) -> bytes:
    return struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, offset, size, link, 0, 0, 0)


def elf(parts: list[tuple[str, int, bytes, int]]) -> bytes:
    """A 64-bit ELF file of sections: name, kind, content, link."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name, _, _, _ in parts) + b".shstrtab\0"
    contents = [content for _, _, content, _ in parts] + [names]
    offsets, place = [], 64
    for content in contents:
        offsets.append(place)
        place += len(content)
    headers = [section(0, 0, 0, 0)]
    at = 1
    for (name, kind, content, link), offset in zip(parts, offsets, strict=False):
        headers.append(section(kind, at, offset, len(content), link))
        at += len(name) + 1
    headers.append(section(3, at, offsets[-1], len(names)))
    head = b"\x7fELF\x02\x01\x01" + b"\0" * 9
    head += struct.pack("<HHIQQQIHHHHHH", 2, 190, 1, 0, 0, place, 0, 64, 56, 0, 64, len(headers), len(headers) - 1)
    return head + b"".join(contents) + b"".join(headers)


def cubin(registers: int, frame: int) -> bytes:
    strings = b"\0other\0kernel\0"
    symbols = b"".join(struct.pack("<IBBHQQ", at, 0, 0, 0, 0, 0) for at in (0, 1, 7))
    info = b"".join(
        struct.pack("<BBHII", 4, attribute, 8, symbol, value)
        for attribute, symbol, value in ((0x2F, 1, 99), (0x2F, 2, registers), (0x11, 2, frame))
    )
    info = struct.pack("<BBH", 3, 0x50, 7) + info  # a value in the place of the size
    return elf([(".strtab", 3, strings, 0), (".symtab", 2, symbols, 1), (".nv.info", 1, info, 2)])


def test_a_cubin_says_what_each_function_takes() -> None:
    found = resources(cubin(63, 24), "kernel")
    assert (found.registers, found.local_bytes) == (63, 24)
    assert resources(cubin(63, 24), "other").registers == 99


def test_a_code_object_says_it_in_its_note() -> None:
    kernels = [
        {".name": "other", ".vgpr_count": 1},
        {".name": "k", ".vgpr_count": 54, ".private_segment_fixed_size": 8},
    ]
    payload = msgspec.msgpack.encode({"amdhsa.kernels": kernels})
    note = struct.pack("<III", 7, len(payload), 32) + b"AMDGPU\0\0" + payload + b"\0" * (-len(payload) % 4)
    found = resources(elf([(".note", 7, note, 0)]), "k")
    assert (found.registers, found.local_bytes) == (54, 8)


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"not a binary at all" * 10, cubin(1, 0)[:40]])
def test_what_is_no_binary_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="ELF"):
        resources(data, "kernel")


def test_a_function_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="'missing'"):
        resources(cubin(1, 0), "missing")

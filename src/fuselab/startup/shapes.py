"""Streams of shapes: read from words or a file, the axes that vary, the buckets they are padded to. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fuselab.errors import ArgumentSpecError, UsageError
from fuselab.startup.shape_records import Shapes

__all__ = ["bucket", "parse_buckets", "read_stream", "shapes_text", "varying"]

MOST_CALLS = 100_000

_REPEATED = re.compile(r"^(?P<shapes>.*?)\*(?P<times>\d+)$")


def read_stream(text: str) -> list[Shapes]:
    """A stream of shapes: ``8x512,16x512*3``, ``x=8x512;mask=8x8``, or the name of a file with one call a line.

    A line of a file is either of the two, or JSON: ``[8, 512]`` or ``{"x": [8, 512], "mask": [8, 8]}``. Empty lines and
    what follows a ``#`` are left out. A shape without a name is that of the first tensor argument.

    Raises:
        ArgumentSpecError: it cannot be read; the message quotes it.
        UsageError: there is no such file, or nothing in it.

    Example:
        >>> read_stream("8x512,16x512*2")
        [{'': (8, 512)}, {'': (16, 512)}, {'': (16, 512)}]
        >>> read_stream("x=8x512;mask=8x8")
        [{'x': (8, 512), 'mask': (8, 8)}]
    """
    path = Path(text)
    if "/" in text or path.suffix:
        try:
            content = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise UsageError(
                f"the stream of shapes {text!r} cannot be read: {why}", hint="name a file, or write 8x512,16x512"
            ) from error
        words = [(f"{path.name}:{n}", line.partition("#")[0].strip()) for n, line in enumerate(content.splitlines(), 1)]
    else:
        words = [("--shapes", word.strip()) for word in text.split(",")]
    stream: list[Shapes] = []
    for where, word in words:
        if word:
            stream += _calls(word, where)
        elif where == "--shapes":
            raise ArgumentSpecError(f"--shapes {text!r} has an empty place", hint="write it as 8x512,16x512")
        if len(stream) > MOST_CALLS:
            raise UsageError(f"a stream has {MOST_CALLS} calls at most", hint="take a part of it")
    if not stream:
        raise UsageError(f"the stream of shapes {text!r} is empty", hint="write 8x512,16x512, or one shape a line")
    if len({tuple(shapes) for shapes in stream}) > 1:
        raise ArgumentSpecError(
            "not all calls of the stream name the same arguments", hint="name them all in each: x=8x512;mask=8x8"
        )
    return stream


def parse_buckets(text: str) -> list[int]:
    """Sizes to pad to, ``128,256,512``; none means powers of two.

    Raises:
        ArgumentSpecError: not a list of positive integers.

    Example:
        >>> parse_buckets("512,128")
        [128, 512]
    """
    try:
        sizes = sorted({int(word) for word in text.split(",")}) if text else []
    except ValueError:
        sizes = [0]
    if any(size < 1 for size in sizes):
        raise ArgumentSpecError(f"--buckets {text!r} is no list of sizes", hint="write it as 128,256,512")
    return sizes


def bucket(size: int, buckets: Sequence[int]) -> int:
    """The size that an axis is padded to: the next bucket, or the next power of two; past the last, a multiple of it.

    Example:
        >>> bucket(100, []), bucket(100, [96, 128]), bucket(300, [96, 128])
        (128, 128, 384)
    """
    for candidate in buckets:
        if size <= candidate:
            return candidate
    if buckets:
        return -(-size // buckets[-1]) * buckets[-1]
    return 1 << max(size - 1, 0).bit_length()


def varying(shapes: Iterable[Mapping[str, Sequence[int]]]) -> dict[str, dict[int, tuple[int, int]]]:
    """The axes of each tensor whose size is not the same in all calls: smallest and largest size.

    Raises:
        UsageError: a tensor has not the same number of axes in all calls.

    Example:
        >>> varying([{"x": (8, 512)}, {"x": (32, 512)}])
        {'x': {0: (8, 32)}}
    """
    found: dict[str, dict[int, tuple[int, int]]] = {}
    ranks: dict[str, int] = {}
    sizes: dict[tuple[str, int], set[int]] = {}
    for call in shapes:
        for name, shape in call.items():
            if ranks.setdefault(name, len(shape)) != len(shape):
                raise UsageError(
                    f"{name or 'the main input'} has {ranks[name]} axes in one call and {len(shape)} in another",
                    hint="a stream keeps the number of axes",
                )
            for axis, size in enumerate(shape):
                sizes.setdefault((name, axis), set()).add(size)
    for (name, axis), seen in sizes.items():
        if len(seen) > 1:
            found.setdefault(name, {})[axis] = (min(seen), max(seen))
    return found


def shapes_text(shapes: Shapes) -> str:
    """A call's shapes as they are written.

    Example:
        >>> shapes_text({"": (8, 512)}), shapes_text({"x": (8, 512), "mask": (8, 8)})
        ('8x512', 'x=8x512;mask=8x8')
    """
    return ";".join(
        ("x".join(map(str, shape)) if not name else f"{name}={'x'.join(map(str, shape))}")
        for name, shape in shapes.items()
    )


def _calls(word: str, where: str) -> list[Shapes]:
    if word[0] in "[{":
        return [_from_json(word, where)]
    match = _REPEATED.match(word)
    times = int(match["times"]) if match else 1
    if not 1 <= times <= MOST_CALLS:
        raise ArgumentSpecError(f"{where}: {word!r} is repeated {times} times", hint=f"1 to {MOST_CALLS}")
    from fuselab.experiments.arguments import parse_shape

    shapes: Shapes = {}
    for part in (match["shapes"] if match else word).split(";"):
        name, equals, shape = part.rpartition("=")
        if equals and not name.strip().isidentifier():
            raise ArgumentSpecError(f"{where}: {name!r} is no name of an argument", hint="write it as x=8x512")
        if name.strip() in shapes:
            raise ArgumentSpecError(f"{where}: {part!r} comes twice in one call", hint="calls are separated by commas")
        shapes[name.strip()] = parse_shape(shape.strip())
    return [dict(shapes) for _ in range(times)]


def _from_json(word: str, where: str) -> Shapes:
    try:
        value: Any = json.loads(word)
    except ValueError as error:
        raise ArgumentSpecError(f"{where}: {word!r} is not JSON: {error}", hint='write {"x": [8, 512]}') from error
    named = value if isinstance(value, dict) else {"": value}
    for shape in named.values():
        if not isinstance(shape, list) or not all(type(size) is int and size > 0 for size in shape):
            raise ArgumentSpecError(f"{where}: {word!r} is no shape", hint='write [8, 512] or {"x": [8, 512]}')
    return {str(name): tuple(shape) for name, shape in named.items()}

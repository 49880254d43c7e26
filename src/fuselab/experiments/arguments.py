"""The grammar of ``--arg``, ``--shape`` and ``--dtype``: text to records and back, without torch.

::

    argument  NAME=tensor | NAME=scalar
    tensor    DTYPE[AXIS,...] [>=LOW] [<HIGH] [:requires_grad]
    scalar    integer, float, true, false, none, a word, or any text in single quotes

``x=bf16[4096,1024]`` is normal noise, ``w=f32[1024]:requires_grad`` has its gradient compared, ``ids=i64[8,512]<50257``
are integers from 0 to 50256, ``mask=bool[8,512]`` is true and false with equal chance, ``scale=f32[]`` has no axes. An
integer tensor without a range holds 0 to 9.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import NoReturn

from fuselab.errors import ArgumentSpecError
from fuselab.records import DTYPES, Scalar

__all__ = [
    "DEFAULT_HIGH",
    "ArgumentSpec",
    "TensorSpec",
    "parse_argument",
    "parse_dtype",
    "parse_shape",
]

DEFAULT_HIGH = 10
"""Integers of a tensor without a range are below this."""

ALIASES = {"half": "f16", "float": "f32", "double": "f64", "short": "i16", "int": "i32", "long": "i64"}
"""Names that torch has for a dtype beside its own."""

SHORT_NAMES = {**{short: short for short in DTYPES}, **{long: short for short, long in DTYPES.items()}, **ALIASES}
"""Every accepted dtype name to its short one."""

INTEGER_RANGES = {
    "u8": (0, 2**8 - 1),
    "i8": (-(2**7), 2**7 - 1),
    "i16": (-(2**15), 2**15 - 1),
    "i32": (-(2**31), 2**31 - 1),
    "i64": (-(2**63), 2**63 - 1),
}
"""What an integer dtype can hold, both ends included."""

FLOAT_DTYPES = ("bf16", "f16", "f32", "f64")

EXAMPLES = "x=bf16[4096,1024], w=f32[1024]:requires_grad, ids=i64[8,512]<50257, eps=1e-5, approximate=tanh, x=none"

LARGEST_AXIS = 2**63 - 1
LONGEST_INTEGER = 1000

_NAME = re.compile(r"[^\W\d]\w*")
_WORD = re.compile(r"[^\W\d][\w.-]*")
_DTYPE = re.compile(r"[A-Za-z_][\w.]*")
_INTEGER = re.compile(r"[+-]?\d+")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|(?:inf|nan)(?![\w.-]))")
_QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'", re.DOTALL)
_WORDS = {"true": True, "True": True, "false": False, "False": False, "none": None, "None": None}
_DTYPE_WORDS = {*DTYPES, *DTYPES.values()}


@dataclass(frozen=True)
class TensorSpec:
    """A tensor to be drawn; as text what the command line takes."""

    dtype: str
    """Short dtype name."""
    shape: tuple[int, ...]
    """Its axes; none for a single value."""
    low: int | None = None
    """Smallest integer, where a range was given."""
    high: int | None = None
    """Integers stay below this, where a range was given."""
    requires_grad: bool = False
    """Whether its gradient is taken."""

    def __str__(self) -> str:
        low = "" if self.low is None else f">={self.low}"
        high = "" if self.high is None else f"<{self.high}"
        grad = ":requires_grad" if self.requires_grad else ""
        return f"{self.dtype}[{','.join(map(str, self.shape))}]{low}{high}{grad}"

    @property
    def bounds(self) -> tuple[int, int]:
        """Smallest integer, and the one that all stay below; what was not given is 0 and ``DEFAULT_HIGH``."""
        low = 0 if self.low is None else self.low
        return low, max(low, 0) + DEFAULT_HIGH if self.high is None else self.high


@dataclass(frozen=True)
class ArgumentSpec:
    """One ``--arg``: a parameter's name and what to pass for it.

    Example:
        >>> spec = parse_argument("ids=int64[8, 512]<50257")
        >>> spec.name, spec.value
        ('ids', TensorSpec(dtype='i64', shape=(8, 512), low=None, high=50257, requires_grad=False))
        >>> str(spec)
        'ids=i64[8,512]<50257'
    """

    name: str
    """Name of the parameter."""
    value: TensorSpec | Scalar | None
    """A tensor to be drawn, or the value itself."""

    @property
    def text(self) -> str:
        """What stands behind the ``=``, in the shortest form."""
        return str(self.value) if isinstance(self.value, TensorSpec) else _format_scalar(self.value)

    def __str__(self) -> str:
        return f"{self.name}={self.text}"


def parse_argument(text: str) -> ArgumentSpec:
    """Read one ``--arg``.

    Raises:
        ArgumentSpecError: it does not follow the grammar; the message quotes it and points at the place.
    """
    reader = _Reader("--arg", text)
    name = reader.take(_NAME)
    if name is None:
        reader.fail("expected the name of a parameter", f"for example {EXAMPLES}")
    if not reader.accept("="):
        reader.fail("expected '=' after the name", f"for example {EXAMPLES}")
    value = _tensor(reader) if _looks_like_tensor(reader) else _scalar(reader)
    reader.skip()
    if not reader.done:
        hint = (
            "a tensor is DTYPE[AXIS,...], then >=LOW, <HIGH and :requires_grad, each optional and in this order"
            if isinstance(value, TensorSpec)
            else f"text with spaces or signs goes in single quotes; for example {EXAMPLES}"
        )
        reader.fail("cannot read the rest", hint)
    return ArgumentSpec(name, value)


def parse_shape(text: str) -> tuple[int, ...]:
    """Read one ``--shape``: axes of at least 1, with ``x`` between them.

    Raises:
        ArgumentSpecError: it is something else; the message points at the place.

    Example:
        >>> parse_shape("4096x1024")
        (4096, 1024)
    """
    reader = _Reader("--shape", text)
    axes: list[int] = []
    hint = "axes are whole numbers with x between them, for example 4096x1024"
    while True:
        reader.skip()
        start = reader.place
        digits = reader.take(_INTEGER)
        if digits is None:
            empty = bool(axes) if reader.done else reader.rest[0] in "xX"
            reader.fail("an axis is empty" if empty else "expected a number", hint)
        if not 1 <= _integer(digits) <= LARGEST_AXIS:
            reader.fail(f"an axis of {digits} is not possible", "each axis is at least 1", start)
        axes.append(_integer(digits))
        reader.skip()
        if reader.done:
            return tuple(axes)
        if not (reader.accept("x") or reader.accept("X")):
            reader.fail("expected 'x' between two axes", hint)


def parse_dtype(text: str) -> str:
    """The short name of a dtype, from its short name or one of torch's.

    Raises:
        ArgumentSpecError: no such dtype; the message has the nearest match.

    Example:
        >>> parse_dtype("bfloat16"), parse_dtype("torch.float32"), parse_dtype("f16")
        ('bf16', 'f32', 'f16')
    """
    reader = _Reader("--dtype", text)
    short = SHORT_NAMES.get(text.strip().removeprefix("torch."))
    if short is None:
        reader.fail(*_unknown_dtype(text.strip()), start=0)
    return short


class _Reader:
    """A place in a text, and the error that points at it."""

    def __init__(self, option: str, text: str) -> None:
        self._option = option
        self._text = text
        self.place = 0

    @property
    def rest(self) -> str:
        """What has not been read."""
        return self._text[self.place :]

    @property
    def done(self) -> bool:
        """Whether everything has been read."""
        return self.place == len(self._text)

    def skip(self) -> None:
        """Pass over spaces."""
        self.place += len(self.rest) - len(self.rest.lstrip(" \t"))

    def accept(self, token: str) -> bool:
        """Pass over a token, after spaces, if it is there."""
        self.skip()
        if not self.rest.startswith(token):
            return False
        self.place += len(token)
        return True

    def take(self, pattern: re.Pattern[str]) -> str | None:
        """Pass over what matches a pattern, after spaces, and return it; None if nothing does."""
        self.skip()
        match = pattern.match(self._text, self.place)
        if match is None:
            return None
        self.place = match.end()
        return match.group()

    def fail(self, problem: str, hint: str, start: int | None = None) -> NoReturn:
        """Raise an error that quotes the text and points at ``start``, or at where reading stopped."""
        place = self.place if start is None else start
        shown = "".join(c if c.isprintable() else "?" for c in self._text)
        # A very long text is cut around the place, so that the caret stays below it.
        left = max(0, place - 60)
        window = shown[left : place + 40]
        quoted = repr(self._text if len(self._text) <= 100 else self._text[:97] + "...")
        raise ArgumentSpecError(
            f"{self._option} {quoted}: {problem}\n    {window}\n    {' ' * (place - left)}^", hint=hint
        )


def _looks_like_tensor(reader: _Reader) -> bool:
    """A dtype name alone is taken for a tensor too: a forgotten shape is likelier than a string ``bf16``."""
    reader.skip()
    match = _DTYPE.match(reader.rest)
    if match is None:
        return False
    return reader.rest[match.end() :].lstrip(" \t").startswith("[") or match.group() in _DTYPE_WORDS


def _tensor(reader: _Reader) -> TensorSpec:
    reader.skip()
    start = reader.place
    written = reader.take(_DTYPE) or ""
    dtype = SHORT_NAMES.get(written.removeprefix("torch."))
    if dtype is None:
        reader.fail(*_unknown_dtype(written), start)
    if not reader.accept("["):
        reader.fail(
            f"{written} is a dtype, and its shape is missing",
            f"write {written}[4096,1024], or '{written}' in quotes for the word",
        )
    shape = _axes(reader)
    low, high = _range(reader, dtype)
    requires_grad = False
    if reader.accept(":"):
        start = reader.place
        flag = reader.take(_WORD)
        if flag != "requires_grad":
            reader.fail(f"unknown flag {flag or ''!r}", "the only flag is :requires_grad", start)
        if dtype not in FLOAT_DTYPES:
            reader.fail(f"{dtype} has no gradient", f"only {', '.join(FLOAT_DTYPES)} have one", start)
        requires_grad = True
    return TensorSpec(dtype, shape, low, high, requires_grad)


def _axes(reader: _Reader) -> tuple[int, ...]:
    hint = "axes are whole numbers with commas between them, for example [4096,1024], or [] for a single value"
    if reader.accept("]"):
        return ()
    axes: list[int] = []
    while True:
        reader.skip()
        start = reader.place
        digits = reader.take(_INTEGER)
        if digits is None:
            reader.fail("expected a number", hint)
        if not 0 <= _integer(digits) <= LARGEST_AXIS:
            reader.fail(f"an axis of {digits} is not possible", hint, start)
        axes.append(_integer(digits))
        if reader.accept("]"):
            return tuple(axes)
        if not reader.accept(","):
            reader.fail("expected ',' or ']'", hint)


def _range(reader: _Reader, dtype: str) -> tuple[int | None, int | None]:
    low = high = None
    hint = f"a range is >=LOW, <HIGH or both, for example {dtype}[8,512]>=1<100"
    reader.skip()
    start = reader.place
    if reader.accept(">="):
        low = _bound(reader, hint)
    if reader.accept("<"):
        high = _bound(reader, hint)
    if low is None and high is None:
        return None, None
    if dtype not in INTEGER_RANGES:
        reader.fail(f"a range is for integers, and {dtype} is none", f"integers: {', '.join(INTEGER_RANGES)}", start)
    smallest, largest = INTEGER_RANGES[dtype]
    first, end = TensorSpec(dtype, (), low, high).bounds
    if end <= first:
        reader.fail(f"the range holds no integer: from {first} to below {end}", hint, start)
    if first < smallest or end - 1 > largest:
        reader.fail(f"{dtype} holds {smallest} to {largest}, not {first} to {end - 1}", hint, start)
    return low, high


def _bound(reader: _Reader, hint: str) -> int:
    digits = reader.take(_INTEGER)
    if digits is None:
        reader.fail("expected a whole number", hint)
    return _integer(digits)


def _integer(digits: str) -> int:
    """An integer; one of thousands of digits, which Python refuses to read, is as good as any that is too large."""
    return int(digits) if len(digits) <= 40 else LARGEST_AXIS + 1


def _scalar(reader: _Reader) -> Scalar | None:
    reader.skip()
    start = reader.place
    number = reader.take(_NUMBER)
    if number is not None:
        reader.skip()
        if not reader.done:
            reader.fail("cannot read this number", f"a number, or text in single quotes; for example {EXAMPLES}", start)
        if not _INTEGER.fullmatch(number):
            return float(number)
        if len(number) > LONGEST_INTEGER:
            reader.fail(f"an integer of {len(number)} digits is too long", "write it in your code", start)
        return int(number)
    quoted = reader.take(_QUOTED)
    if quoted is not None:
        return re.sub(r"\\(.)", r"\1", quoted[1:-1], flags=re.DOTALL)
    word = reader.take(_WORD)
    if word is None:
        what = "nothing stands after the '='" if reader.done else "cannot read this value"
        reader.fail(what, f"a tensor, a number, true, false, none, a word, or text in single quotes: {EXAMPLES}")
    return _WORDS.get(word, word)


def _format_scalar(value: Scalar | None) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    bare = _WORD.fullmatch(value) and value not in _WORDS and value not in _DTYPE_WORDS and not _NUMBER.fullmatch(value)
    if bare:
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _unknown_dtype(written: str) -> tuple[str, str]:
    near = difflib.get_close_matches(written.lower(), SHORT_NAMES, n=1, cutoff=0.5)
    question = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown dtype {written!r}{question}", f"dtypes: {', '.join(DTYPES)}, and torch's names such as bfloat16"

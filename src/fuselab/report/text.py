"""Words that come from elsewhere, made safe for a terminal: names, reasons, source lines are shown, never obeyed."""

from __future__ import annotations

from rich.console import ConsoleOptions
from rich.text import Text

__all__ = ["for_encoding", "one_line", "printable"]

_PLAIN = str.maketrans("±·…─│├┤┊█▉▊▋▌▍▎▏", "~-.-|||:########")
"""One sign for one sign, so that columns stay where they are."""


def printable(text: str, keep: str = "") -> str:
    r"""The text with every character escaped that a terminal would obey or reorder instead of showing it.

    Args:
        text: any text.
        keep: characters to leave, such as ``"\n\t"`` in source code.

    Example:
        >>> printable("rm\x1b[2J\u202efdp.exe")
        'rm\\x1b[2J\\u202efdp.exe'
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape", "replace").decode("ascii") for c in text
    )


def one_line(text: str, width: int) -> str:
    r"""The first line that says something, cut to a width with an ellipsis.

    Example:
        >>> one_line("\nValueError: p has to be in [0, 1]\n  at line 3", 24)
        'ValueError: p has to be…'
    """
    line = printable(next((line.strip() for line in text.splitlines() if line.strip()), ""))
    return line if len(line) <= width else line[: max(width - 1, 0)].rstrip() + "…"


def for_encoding(text: Text, options: ConsoleOptions) -> Text:
    """The text with its signs replaced where the terminal's encoding has none of them."""
    if options.encoding.lower().startswith("utf"):
        return text
    plain = text.copy()
    plain.plain = "".join(c if c.isascii() else "?" for c in text.plain.translate(_PLAIN))
    return plain

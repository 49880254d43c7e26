"""The application that the commands hang on, and what they share: options, where words go, JSON."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from fuselab import __version__

__all__ = ["Json", "Out", "app", "escaped", "join_lines_of_help", "print_json", "words"]

app = typer.Typer(
    name="fuselab",
    help="Measure, see and beat what torch.compile does with fusable PyTorch code.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

words = Console(stderr=True, soft_wrap=True)
"""Where sentences go; tables go to stdout."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Out = Annotated[
    Path, typer.Option("--out", envvar="FUSELAB_OUT", help="Directory that holds the runs.", show_default=True)
]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"fuselab {__version__}")  # noqa: T201 - this is the output
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", envvar="FUSELAB_DEBUG", help="Show tracebacks.")] = False,
) -> None:
    """Options that come before the command."""


def join_lines_of_help() -> None:
    """Give every command its docstring as help, a paragraph a line: typer keeps the ends of lines behind the first."""
    for command in app.registered_commands:
        paragraphs = (inspect.getdoc(command.callback) or "").split("\n\n")
        command.help = "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)


def print_json(document: Any) -> None:
    """Records as indented JSON on stdout."""
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    sys.stdout.buffer.flush()


def escaped(text: str) -> str:
    """Text as it is, where rich would read markup."""
    from rich.markup import escape

    return escape(text)

"""The command line: parses, calls, prints. Data goes to stdout, words to stderr.

One file a group of commands; importing it hangs its commands on the application.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from pathlib import Path
from typing import Any

import typer

from fuselab.cli import (  # noqa: F401 - each hangs its commands on the application
    calibrate,
    compare,
    compile_cost,
    course,
    diagnose,
    doctor,
    env,
    inspect,
    pack,
    report,
    run,
    show,
    sweep,
)
from fuselab.cli.app import app, escaped, join_lines_of_help, words
from fuselab.errors import FuselabError

__all__ = ["app", "main"]

join_lines_of_help()

INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM, as shells have it."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})
"""What writing to standard output ends with where a file stands behind it."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code; errors of ours are printed without a traceback."""
    _make_streams_writable()
    command: Any = typer.main.get_command(app)
    debug = "--debug" in (arguments if arguments is not None else sys.argv[1:]) or bool(os.environ.get("FUSELAB_DEBUG"))
    before = signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        from fuselab.settings import defaults_from_project

        defaults = defaults_from_project(Path.cwd(), _options(command))
        result = command.main(args=arguments, prog_name="fuselab", standalone_mode=False, default_map=defaults)
        sys.stdout.flush()
        if result == INTERRUPTED:  # typer turns KeyboardInterrupt into this exit code
            raise KeyboardInterrupt
        return result if isinstance(result, int) else 0
    except FuselabError as error:
        if debug:
            raise
        words.print(f"[bold red]error[/]: {escaped(error.message)}", highlight=False)
        if error.hint:
            words.print(f"  [bold]hint[/]: {escaped(error.hint)}", highlight=False)
        return error.exit_code
    except typer.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        if arguments is None:  # the program itself, which ends now: a second Ctrl-C must not take its exit code away
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            before = signal.SIG_IGN
        words.print("interrupted; what was measured is kept: fuselab list-runs", highlight=False)
        return INTERRUPTED
    except typer.TyperException as error:
        if error.format_message():  # else there was no command at all, and the help was shown
            context = getattr(error, "ctx", None)
            words.print(f"[bold red]error[/]: {escaped(error.format_message())}", highlight=False)
            words.print(f"  [bold]hint[/]: {getattr(context, 'command_path', 'fuselab')} --help", highlight=False)
        return error.exit_code
    except OSError as error:
        return _output_failed(error)
    finally:
        signal.signal(signal.SIGTERM, before)


def _make_streams_writable() -> None:
    """Have output that is closed (``>&-``) swallowed, and signs that a locale has none for replaced."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - for the whole process
        elif isinstance(stream, io.TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors="replace")


def _output_failed(error: OSError) -> int:
    """The exit code where standard output cannot be written; any other error goes on its way."""
    gone = isinstance(error, BrokenPipeError)  # the reader (`| head`): nothing more can be said
    if not gone and (error.filename is not None or error.errno not in _FULL):
        raise error
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries again while it shuts down
    if not gone:
        words.print(f"[bold red]error[/]: the output cannot be written: {error.strerror}", highlight=False)
    return 1


def _as_interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _options(command: Any) -> dict[str, frozenset[str]]:
    """Option names by command."""
    return {
        name: frozenset(p.name for p in sub.params if p.param_type_name == "option" and p.name)
        for name, sub in command.commands.items()
    }

"""The command line: parses, calls, prints. Data goes to stdout, words to stderr."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console

from fuselab import __version__
from fuselab.errors import FuselabError, UsageError
from fuselab.experiment import BASELINE, load_registry

if TYPE_CHECKING:
    from fuselab.runner import Outcome

__all__ = ["app", "main"]

INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM, as shells have it."""

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


@app.command()
def doctor(out: Out = Path("runs"), as_json: Json = False) -> None:
    """Show what is here, what works, what is missing and the command that mends it."""
    from fuselab.checks import checks, main_job_can_run
    from fuselab.report.checks import checks_table

    found = checks(out)
    if as_json:
        _print_json({"can_run": main_job_can_run(found), "checks": found})
    else:
        Console().print(checks_table(found))
    if not main_job_can_run(found):
        raise typer.Exit(1)


@app.command("list")
def list_experiments(as_json: Json = False) -> None:
    """List experiments, their variants, options and presets, and the described devices."""
    from fuselab.report.catalogue import catalogue_document, catalogue_view
    from fuselab.targets import TARGETS

    registry = load_registry()
    if as_json:
        _print_json(catalogue_document(registry, TARGETS))
    else:
        Console().print(catalogue_view(registry, TARGETS))


@app.command()
def run(
    what: Annotated[
        list[str] | None, typer.Argument(help="Experiments, or your own code as FILE.py:NAME; nothing means all four.")
    ] = None,
    arg: Annotated[
        list[str] | None, typer.Option("--arg", help="An argument of your function: 'x=bf16[4096,1024]:requires_grad'.")
    ] = None,
    shape: Annotated[
        list[str] | None, typer.Option("--shape", help="Shape of the main input: 4096x1024. May be repeated.")
    ] = None,
    dtype: Annotated[list[str] | None, typer.Option("--dtype", help="bf16, f16, f32 or f64. May be repeated.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="An option of the experiment: approximate=tanh.")
    ] = None,
    variant: Annotated[list[str] | None, typer.Option("--variant", help="Only this variant. May be repeated.")] = None,
    direction: Annotated[str, typer.Option(help="forward, backward or both.")] = "both",
    baseline: Annotated[str, typer.Option(help="The variant that speedups are quoted against.")] = BASELINE,
    device: Annotated[str, typer.Option(envvar="FUSELAB_DEVICE", help="auto, cpu or cuda.")] = "auto",
    preset: Annotated[str, typer.Option(envvar="FUSELAB_PRESET", help="smoke, quick or full.")] = "quick",
    out: Out = Path("runs"),
    seed: Annotated[int, typer.Option(envvar="FUSELAB_SEED", help="Seed of inputs and of the order of rounds.")] = 0,
    budget: Annotated[
        float | None, typer.Option(help="Seconds of timing for each variant and cell; 1 on a GPU, 2 on a CPU.")
    ] = None,
    deadline: Annotated[float, typer.Option(help="Seconds after which a variant's check is given up.")] = 600.0,
    jobs: Annotated[int | None, typer.Option(help="Variants compiled at a time; by the cores of the machine.")] = None,
    resume: Annotated[
        list[str] | None,
        typer.Option("--resume", help="Go on with a run that did not finish: its path or id, or 'all'."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail on any warning: graph breaks, recompiles, throttling.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run experiments: compile, capture, check, time, and keep everything.

    Without arguments all four experiments run at preset quick on whatever the machine has.
    """
    from fuselab import runner
    from fuselab.api import carry_out_selection, resume_runs
    from fuselab.plan import select

    settings = runner.Settings(budget_s=budget, deadline_s=deadline, jobs=jobs)
    registry = load_registry()
    if resume:
        if what:
            raise UsageError(
                f"--resume goes on with what the run was doing; {what[0]!r} cannot be added", hint="leave it out"
            )
        outcomes = resume_runs(resume, out, registry, settings, console=words)
    else:
        selection = select(
            what or [],
            registry,
            shapes=shape or [],
            dtypes=dtype or [],
            arguments=arg or [],
            options=option or [],
            variants=variant or [],
            direction=direction,
            baseline=baseline,
            preset=preset,
            seed=seed,
        )
        outcomes = carry_out_selection(
            selection, device, out, settings, console=words, command=["fuselab", *sys.argv[1:]]
        )
    _print_outcomes(outcomes, as_json=as_json)
    _judge(outcomes, strict=strict)


@app.command("list-runs")
def list_runs(out: Out = Path("runs"), as_json: Json = False) -> None:
    """List the runs in a directory; what cannot be read is named with the reason."""
    from fuselab import store
    from fuselab.report.runs import runs_table

    summaries, rejected = store.list_runs(out)
    if as_json:
        _print_json({"runs": summaries, "rejected": rejected})
    else:
        Console().print(runs_table(summaries, rejected))


@app.command()
def show(
    run_name: Annotated[str, typer.Argument(metavar="RUN", help="A run's path or id, the start of it, or 'latest'.")],
    kernel: Annotated[str | None, typer.Option("--kernel", help="Show one kernel: its name or id.")] = None,
    stage: Annotated[
        str | None, typer.Option("--stage", help="With --kernel: another stage than the source, such as ptx.")
    ] = None,
    out: Out = Path("runs"),
    as_json: Json = False,
) -> None:
    """Show a run: what was measured, the kernels that were generated, every stage that was saved."""
    from fuselab import runner, store
    from fuselab.report.document import run_document
    from fuselab.report.runs import run_view

    run = store.open_run(run_name, out)
    outcome = runner.load_outcome(run)
    console = Console()
    if kernel is not None:
        from fuselab.api import kernel_text
        from fuselab.report.runs import kernel_view

        found, text = kernel_text(run, kernel, stage)
        if as_json:
            _print_json({"kernel": found, "text": text})
        else:
            console.print(kernel_view(found, text), soft_wrap=True)
    elif as_json:
        _print_json(run_document([outcome]))
    else:
        console.print(run_view(outcome.metadata, outcome.environment, outcome.measurements))


@app.command()
def calibrate(
    device: Annotated[str, typer.Option(envvar="FUSELAB_DEVICE", help="auto, cpu or cuda.")] = "auto",
    pairs: Annotated[int, typer.Option(min=4, help="A/A pairs, rounded up to whole groups of four.")] = 100,
    repeats: Annotated[int, typer.Option(min=0, help="Fresh processes that repeat one comparison.")] = 5,
    seed: Annotated[int, typer.Option(envvar="FUSELAB_SEED", help="Seed of the orders.")] = 0,
    as_json: Json = False,
) -> None:
    """Measure the measuring engine: copies of one function, controls of known size, coverage, repeatability.

    Exits with 1 if a bar fails. About 10 minutes for 100 pairs on 2 CPU cores, which should have nothing else to do.
    """
    from fuselab.api import calibrated
    from fuselab.report.calibration import calibration_table

    environment, found = calibrated(device, pairs, seed=seed, repeats=repeats, console=words)
    if as_json:
        _print_json({"environment": environment, "passed": found.passed, "seconds": found.seconds, "bars": found.bars})
    else:
        Console().print(calibration_table(found.bars, environment, found.seconds))
    if not found.passed:
        raise typer.Exit(1)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code; errors of ours are printed without a traceback."""
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
        words.print(f"[bold red]error[/]: {_escaped(error.message)}", highlight=False)
        if error.hint:
            words.print(f"  [bold]hint[/]: {_escaped(error.hint)}", highlight=False)
        return error.exit_code
    except typer.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        words.print("interrupted; what was measured is kept: fuselab list-runs", highlight=False)
        return INTERRUPTED
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        words.print(f"[bold red]error[/]: {_escaped(error.format_message())}", highlight=False)
        words.print(f"  [bold]hint[/]: {getattr(context, 'command_path', 'fuselab')} --help", highlight=False)
        return error.exit_code
    except BrokenPipeError:
        # The reader is gone (`| head`): nothing more can be said, and Python must not try again while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)


def _as_interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _options(command: Any) -> dict[str, frozenset[str]]:
    """Option names by command."""
    return {
        name: frozenset(p.name for p in sub.params if p.param_type_name == "option" and p.name)
        for name, sub in command.commands.items()
    }


def _print_outcomes(outcomes: list[Outcome], *, as_json: bool) -> None:
    from fuselab.report.document import run_document
    from fuselab.report.summary import next_step, summary_view

    if as_json:
        _print_json(run_document(outcomes))
        return
    Console().print(summary_view(outcomes))
    words.print(next_step(outcomes), highlight=False)


def _judge(outcomes: list[Outcome], *, strict: bool) -> None:
    """Exit 1 when a cell failed, or under ``--strict`` when anything was warned of."""
    failed = sum(len(o.failed_cells) for o in outcomes)
    warned = [w for o in outcomes for w in o.warnings]
    if failed:
        words.print(f"[bold red]{failed} cell{'s' if failed > 1 else ''} failed[/]", highlight=False)
    if strict and warned:
        words.print(f"[bold red]--strict: {len(warned)} warnings[/], the first: {_escaped(warned[0])}", highlight=False)
    if failed or (strict and warned):
        raise typer.Exit(1)


def _print_json(document: Any) -> None:
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    sys.stdout.buffer.flush()


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)

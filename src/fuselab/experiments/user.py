"""``FILE.py:NAME`` as an experiment: a function, an ``nn.Module`` class or an instance of one.

Here, in the command line's process, the file is only parsed; the worker that builds a variant or its inputs executes it
(see ``user_code``). The reference is the user's own code in float64: what is checked is that compiling changes nothing.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fuselab.errors import ArgumentSpecError, UsageError
from fuselab.experiment import Experiment, Implementation, load_registry
from fuselab.experiments.arguments import ArgumentSpec, parse_argument
from fuselab.experiments.user_code import UserCode
from fuselab.experiments.user_file import Loaded, UserFile
from fuselab.experiments.user_source import Definition, Source, read_source
from fuselab.experiments.variants import compiled, eager, max_autotune
from fuselab.records import Workload

__all__ = ["experiment_from", "experiment_of_callable"]

LONGEST_NAME = 64


def experiment_from(target: str, arguments: Sequence[str], *, seed: int = 0) -> Experiment:
    """An experiment of the user's own code, with the variants eager, compile and compile-max-autotune.

    Args:
        target: ``FILE.py:NAME``; the experiment's ``target`` has the path made absolute.
        arguments: texts of ``--arg``. Without any, the file's ``get_inputs()`` is called, if it has one.
        seed: of module parameters and inputs.

    Raises:
        UsageError: no such file, or it is not valid Python.
        UnknownNameError: the file has no such name.
        ArgumentSpecError: a malformed argument, one that the code has no parameter for, or one that is missing.
    """
    path, name = _split(target)
    source = read_source(path)
    definition = source.definition(name)
    specs = [parse_argument(text) for text in arguments]
    _check(specs, definition, source, f"{path.name}:{name}")
    file = UserFile(path, seed)
    code = UserCode(name, lambda: file.take(name), specs, seed)
    description = definition.doc or f"{name} of {path.name}"
    return _experiment(code, name, description, specs, seed, target=f"{path}:{name}")


def experiment_of_callable(
    function: Callable[..., Any],
    arguments: Sequence[str],
    *,
    seed: int = 0,
    get_inputs: Callable[[], Any] | None = None,
) -> Experiment:
    """An experiment of something that lives in this process: a function, an ``nn.Module`` class or an instance.

    Args:
        function: what to study; a class is constructed without arguments.
        arguments: texts as for ``--arg``.
        seed: of module parameters and inputs.
        get_inputs: returns the arguments, where there are no texts.

    Raises:
        ArgumentSpecError: a malformed argument, one that the function has no parameter for, or one that is missing.
        UsageError: it is nothing that can be studied.
    """
    specs = [parse_argument(text) for text in arguments]
    _once(specs)
    name = getattr(function, "__name__", None) or type(function).__name__
    code = UserCode(name, lambda: Loaded(function, get_inputs), specs, seed)
    code.check_arguments()
    doc = inspect.getdoc(function) if hasattr(function, "__name__") else None
    return _experiment(code, name, (doc or f"{name} of this process").splitlines()[0], specs, seed)


def _experiment(
    code: UserCode, name: str, description: str, specs: Sequence[ArgumentSpec], seed: int, target: str | None = None
) -> Experiment:
    workload = Workload(arguments={spec.name: spec.text for spec in specs}, seed=seed)

    def build(_workload: Workload) -> Implementation:
        return code.implementation()

    return Experiment(
        name=_experiment_name(name),
        description=description,
        variants=(eager(build, "your code as written"), compiled(build), max_autotune(build)),
        make_inputs=lambda workload, device_type: code.make_inputs(device_type, workload.seed),
        reference=lambda _workload: code.reference(),
        traffic=lambda _workload, direction: code.traffic(direction),
        workloads=lambda _preset, _device_type: (workload,),
        target=target,
    )


def _split(target: str) -> tuple[Path, str]:
    file, colon, name = target.rpartition(":")
    if not colon or not file or not name:
        path = Path(target.rstrip(":"))
        found = [n for n, d in read_source(path).definitions.items() if d.signature] if path.is_file() else []
        listed = f"; it defines {', '.join(found[:10])}" if found else ""
        raise UsageError(f"{target!r} does not say which function or module to take{listed}", hint="write FILE.py:NAME")
    if Path(file).suffix != ".py":
        raise UsageError(f"{file!r} is not a .py file", hint="write FILE.py:NAME")
    if not name.isidentifier():
        raise UsageError(f"{name!r} is not a name at the top level of {file}", hint="write FILE.py:NAME")
    return Path(file).absolute(), name


def _check(specs: Sequence[ArgumentSpec], definition: Definition, source: Source, target: str) -> None:
    """Names of arguments against the signature, where the syntax shows one; the worker checks the rest."""
    seen = _once(specs)
    signature = definition.signature
    if signature is None:
        return
    known = [parameter.name for parameter in signature.parameters]
    if not (signature.extra_positional or signature.extra_named):
        for spec in specs:
            if spec.name not in known:
                near = difflib.get_close_matches(spec.name, known, n=1, cutoff=0.5)
                question = f"; did you mean {near[0]!r}?" if near else ""
                raise ArgumentSpecError(
                    f"--arg {str(spec)!r}: {target} has no parameter {spec.name!r}{question}",
                    hint=f"its parameters: {', '.join(known) or 'none'}",
                )
    required = [parameter for parameter in signature.parameters if parameter.required]
    missing = [parameter.name for parameter in required if parameter.name not in seen]
    if missing and not (not specs and ("get_inputs" in source.definitions or not source.complete)):
        given = {spec.name: str(spec) for spec in specs}
        example = " ".join(f"--arg '{given.get(p.name, p.example)}'" for p in required)
        raise ArgumentSpecError(
            f"{target} needs {', '.join(missing)}, and no --arg gives {'it' if len(missing) == 1 else 'them'}",
            hint=f"for example: fuselab run {target} {example}; or define get_inputs() in the file",
        )


def _once(specs: Sequence[ArgumentSpec]) -> set[str]:
    """The names given; raises where one is given twice."""
    seen: set[str] = set()
    for spec in specs:
        if spec.name in seen:
            raise ArgumentSpecError(f"--arg {spec.name} is given twice", hint="leave one of them out")
        seen.add(spec.name)
    return seen


def _experiment_name(name: str) -> str:
    """A name for the run's directory: the user's where it is safe, with ``user-`` before one that is registered."""
    safe = re.sub(r"[^A-Za-z0-9_]", "_", name)
    if safe != name or len(safe) > LONGEST_NAME:
        safe = f"{safe[: LONGEST_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a broken plugin was named when the registry was loaded for the command line
        registered = load_registry()
    return f"user-{safe}" if safe in registered else safe

"""Live proofs: processes with a variable and without, and what they saw.

Most variables fill a configuration field: one process with all of them set and one with none show every field. Others
have an effect of their own (a file, a line, other machine code); those are looked at in ``probe_child``, grouped by
what a process can show without one variable hiding another's effect. Both halves of a group are fresh processes with
their own empty directories, so nothing is a cache hit and nothing of the user's is touched.
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from fuselab import probe
from fuselab.env_vars.catalogue import Variable, catalogue
from fuselab.env_vars.installation import Installation

__all__ = ["EFFECTS", "Effect", "Outcome", "run_probes"]

DEADLINE_S = 240.0
_SHOWN = 70
MARK = "fuselab-env-probe:"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a probe of one variable saw."""

    name: str
    settings: dict[str, str]
    looked_at: str
    without: str
    with_: str
    passed: bool | None
    """None where the effect cannot be seen on this machine or in this release; ``reason`` says why."""
    reason: str = ""


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """An effect that a group's process can show."""

    name: str
    group: str
    """``triton`` and ``dynamo`` are set for one step of a process, those in ``WHOLE_PROCESS`` for all of it."""
    value: str
    """``{into}`` stands for the process's own directory."""
    looked_at: str
    claim: Callable[[str, str], bool]
    """What (without, with) must be for the claim to hold."""
    along: dict[str, str] = {}
    """What is set in both halves, because the variable does nothing alone."""


class _Text:
    """A claim about one piece of text: not there without the variable and there with it, or the other way round."""

    def __init__(self, sought: str, *, comes: bool) -> None:
        self.sought = sought
        self.comes = comes

    def __call__(self, without: str, with_: str) -> bool:
        return (self.sought in without, self.sought in with_) == (not self.comes, self.comes)


def _becomes(text: str) -> Callable[[str, str], bool]:
    return _Text(text, comes=True)


def _goes(text: str) -> Callable[[str, str], bool]:
    return _Text(text, comes=False)


def _is(before: str, after: str) -> Callable[[str, str], bool]:
    return lambda without, with_: (without, with_) == (before, after)


def _recorded(code: str) -> bool:
    return "RECORD_FUNCTION" in code or "RecordFunctionHandle" in code


_COMPILED = {"TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
_DUMP = {"TRITON_DUMP_DIR": "{into}/dump"}

EFFECTS = (
    # one process, all set: each has a place of its own to look at
    Effect(name="OMP_NUM_THREADS", group="threads", value="1", looked_at="torch.get_num_threads()",
           claim=_is("2", "1")),
    Effect(name="OMP_DISPLAY_ENV", group="torch", value="true", looked_at="stderr of import torch",
           claim=_becomes("OPENMP DISPLAY ENVIRONMENT BEGIN")),
    Effect(name="OMP_WAIT_POLICY", group="threads", value="ACTIVE", looked_at="OpenMP's own settings",
           claim=lambda a, b: "ACTIVE" not in a and "ACTIVE" in b),
    Effect(name="OMP_PROC_BIND", group="threads", value="CLOSE", looked_at="OpenMP's own settings",
           claim=lambda a, b: "CLOSE" not in a and "CLOSE" in b),
    Effect(name="GOMP_SPINCOUNT", group="threads", value="7", looked_at="OpenMP's own settings",
           claim=lambda a, b: a != "'7'" and b == "'7'"),
    Effect(name="ATEN_CPU_CAPABILITY", group="threads", value="default",
           looked_at="torch.backends.cpu.get_cpu_capability()", claim=lambda a, b: a != "DEFAULT" and b == "DEFAULT"),
    Effect(name="MKL_VERBOSE", group="threads", value="1", looked_at="stdout of a matmul",
           claim=_becomes("MKL_VERBOSE")),
    Effect(name="ONEDNN_VERBOSE", group="threads", value="1", looked_at="stdout of a convolution",
           claim=_becomes("onednn_verbose")),
    Effect(name="TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", group="torch", value="1",
           looked_at="torch.get_float32_matmul_precision()", claim=_is("highest", "high")),
    Effect(name="PYTORCH_JIT", group="torch", value="0", looked_at="type of torch.jit.script(function)",
           claim=_is("ScriptFunction", "function")),
    Effect(name="TORCH_HOME", group="torch", value="{into}/home", looked_at="torch.hub.get_dir()",
           claim=_becomes("/home/hub")),
    Effect(name="TORCH_SHOW_CPP_STACKTRACES", group="torch", value="1", looked_at="text of an exception of C++",
           claim=_becomes("C++")),
    Effect(name="TORCH_DISTRIBUTED_DEBUG", group="torch", value="DETAIL",
           looked_at="torch.distributed.get_debug_level()", claim=_is("DebugLevel.OFF", "DebugLevel.DETAIL")),
    Effect(name="TORCH_EXTENSIONS_DIR", group="torch", value="{into}/extensions",
           looked_at="directory of a cpp_extension build", claim=_becomes("/extensions/")),
    Effect(name="FX_GRAPH_SHOW_STRIDE", group="torch", value="1", looked_at="a printed FX graph",
           claim=_becomes("f32[2, 3][3, 1]")),
    Effect(name="FX_GRAPH_SHOW_DEVICE", group="torch", value="1", looked_at="a printed FX graph",
           claim=_becomes("cpu")),
    Effect(name="TORCHDYNAMO_DISABLE", group="dynamo", value="1", looked_at="graphs that a compile captured",
           claim=_is("1", "0")),
    Effect(name="TORCHDYNAMO_DEBUG_FUNCTION", group="dynamo", value="another",
           looked_at="graphs that a compile captured", claim=_is("1", "0")),
    Effect(name="TORCH_LOGS", group="logs", value="graph_code", looked_at="stderr of a compile",
           claim=_becomes("TRACED GRAPH")),
    Effect(name="TORCH_LOGS_OUT", group="logs", value="{into}/compile.log", looked_at="the file",
           claim=_becomes("TRACED GRAPH")),
    Effect(name="TORCH_LOGS_FORMAT", group="logs", value="ours %(message)s", looked_at="beginning of a log line",
           claim=_becomes("ours TRACED GRAPH")),
    Effect(name="TORCH_TRACE", group="logs", value="{into}/trace", looked_at="files in the directory",
           claim=_becomes("dedicated_log_torch_trace")),
    Effect(name="TORCHINDUCTOR_CACHE_DIR", group="inductor", value="{into}/cache",
           looked_at="generated sources in the directory", claim=_becomes(".cpp"), along=_COMPILED),
    Effect(name="TORCH_COMPILE_DEBUG", group="inductor", value="1", looked_at="files of the debug directory",
           claim=_becomes("output_code.py"), along={"TORCH_COMPILE_DEBUG_DIR": "{into}/debug"}),
    Effect(name="TORCHINDUCTOR_SIZE_ASSERTS", group="inductor", value="0", looked_at="the generated wrapper",
           claim=_goes("    assert_size_stride")),
    Effect(name="TORCHINDUCTOR_CPP_ENABLE_KERNEL_PROFILE", group="inductor", value="1", looked_at="the generated C++",
           claim=lambda a, b: _recorded(b) and not _recorded(a)),
    Effect(name="TORCHINDUCTOR_VEC_ISA_OK", group="inductor", value="0", looked_at="the generated C++",
           claim=_goes("Vectorized<float>::loadu")),
    Effect(name="TRITON_INTERPRET", group="interpret", value="1", looked_at="type of a kernel under triton.jit",
           claim=_is("JITFunction", "InterpretedFunction")),
    # one process, one step after the other: Triton reads these at each compile
    Effect(name="TRITON_CACHE_DIR", group="triton", value="{into}/elsewhere", looked_at="files in the directory",
           claim=_becomes(".cubin")),
    Effect(name="TRITON_HOME", group="triton", value="{into}/home", looked_at="files below .triton/cache",
           claim=_becomes(".cubin")),
    Effect(name="TRITON_KERNEL_DUMP", group="triton", value="1", looked_at="files in TRITON_DUMP_DIR",
           claim=_becomes(".ttgir"), along=_DUMP),
    Effect(name="TRITON_STORE_BINARY_ONLY", group="triton", value="1", looked_at="files in the cache",
           claim=_goes(".ttgir")),
    Effect(name="TRITON_DISABLE_LINE_INFO", group="triton", value="1", looked_at="the PTX", claim=_goes(".loc")),
    Effect(name="TRITON_DEFAULT_FP_FUSION", group="triton", value="0", looked_at="the PTX", claim=_goes("fma.rn.f32")),
    Effect(name="TRITON_F32_DEFAULT", group="triton", value="ieee", looked_at="the TTIR of a tl.dot",
           claim=_goes("inputPrecision = tf32")),
    Effect(name="TRITON_ALLOW_NON_CONSTEXPR_GLOBALS", group="triton", value="1",
           looked_at="compiling a kernel that reads a global", claim=_is("CompilationError", "compiled")),
    Effect(name="DISABLE_MMA_V3", group="triton", value="1", looked_at="the PTX of a tl.dot", claim=_goes("wgmma")),
    Effect(name="DISABLE_LLVM_OPT", group="triton", value="1", looked_at="longer LLVM IR, in lines",
           claim=lambda a, b: int(b) > int(a)),
    Effect(name="DISABLE_PTXAS_OPT", group="triton", value="1", looked_at="bytes of the machine code",
           claim=lambda a, b: int(b) != int(a)),
    Effect(name="MLIR_ENABLE_DUMP", group="triton", value="1", looked_at="stderr", claim=_becomes("IR Dump Before")),
    Effect(name="MLIR_ENABLE_TIMING", group="triton", value="1", looked_at="stderr",
           claim=_becomes("Execution time report")),
    Effect(name="MLIR_DUMP_PATH", group="triton", value="{into}/passes.mlir", looked_at="the file",
           claim=_becomes("IR Dump Before"), along={"MLIR_ENABLE_DUMP": "1"}),
    Effect(name="TRITON_REPRODUCER_PATH", group="triton", value="{into}/repro.mlir", looked_at="files beside the path",
           claim=_becomes("repro")),
    Effect(name="NVPTX_ENABLE_DUMP", group="triton", value="1", looked_at="stdout and stderr",
           claim=_becomes("NVPTX Dump")),
    Effect(name="TRITON_DUMP_PTXAS_LOG", group="triton", value="1", looked_at="stdout and stderr",
           claim=_becomes("Compiling entry function")),
    Effect(name="PTXAS_OPTIONS", group="assembler", value="--no-such-option", looked_at="how the compile ends",
           claim=_is("compiled", "PTXASError")),
    Effect(name="TRITON_ALWAYS_COMPILE", group="triton", value="1", looked_at="a second compile writes the files anew",
           claim=_is("no", "yes")),
)  # fmt: skip
"""What is looked at beyond configuration fields."""

WHOLE_PROCESS = ("threads", "torch", "logs", "inductor", "interpret", "assembler")


def run_probes(names: Iterable[str] | None = None) -> list[Outcome]:
    """Prove variables live; those without a probe of any kind are answered with the reason.

    Args:
        names: the variables; all that have a probe unless given.
    """
    known, installation = catalogue().by_name, Installation.here()
    wanted = list(known) if names is None else list(names)
    with_field = [known[name] for name in wanted if _shows_field(known[name])]
    effects = [effect for effect in EFFECTS if effect.name in wanted]
    outcomes = _probe_fields(with_field, installation)
    for group in dict.fromkeys(effect.group for effect in effects):
        outcomes += _probe_group(group, [effect for effect in effects if effect.group == group], installation)
    if names is not None:
        seen = {outcome.name for outcome in outcomes}
        outcomes += [
            Outcome(
                name=name, settings={name: known[name].example}, looked_at="", without="", with_="", passed=None,
                reason="its effect has no probe: it needs a GPU, another machine or a long compile",
            )
            for name in wanted if name not in seen
        ]  # fmt: skip
    return outcomes


def _shows_field(variable: Variable) -> bool:
    """Whether the field behind a variable can be read after importing its module alone."""
    return bool(variable.field and variable.gives) and variable.name != "TRITON_INTERPRET"


def _probe_fields(variables: list[Variable], installation: Installation) -> list[Outcome]:
    outcomes = []
    here = []
    for variable in variables:
        if installation.in_range(variable) and installation.path(variable.files[0]):
            here.append(variable)
        else:
            outcomes.append(
                _not_here(variable.name, {variable.name: variable.example}, installation.look(variable).reason)
            )
    if not here:
        return outcomes
    fields = {variable.name: variable.field for variable in here}
    without, with_ = _children(
        "fields", ({}, {variable.name: variable.example for variable in here}), {"fields": fields}
    )
    release = ".".join(installation.versions.get("torch", "").split(".")[:2])
    for variable in here:
        seen = without.get(variable.name, "?"), with_.get(variable.name, "?")
        default = variable.default_in.get(release, variable.default)
        of_machine = not _is_python(variable.default)
        if seen[0] == seen[1] == variable.gives and (of_machine or default == variable.gives):
            where = "on this machine" if of_machine else "in this release"
            reason = f"{where} {variable.example} is the default"
            outcomes.append(_not_here(variable.name, {variable.name: variable.example}, reason))
            continue
        known_default = of_machine or default == seen[0]
        outcomes.append(
            Outcome(
                name=variable.name,
                settings={variable.name: variable.example},
                looked_at=variable.field or "",
                without=seen[0],
                with_=seen[1],
                passed=seen[1] == variable.gives and known_default and seen[0] != seen[1],
                reason="" if known_default else f"the catalogue has the default {default}",
            )
        )
    return outcomes


def _is_python(text: str) -> bool:
    """Whether a default is a value, as opposed to words such as `the number of cores`."""
    import ast

    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return False
    return True


def _not_here(name: str, settings: dict[str, str], reason: str) -> Outcome:
    return Outcome(name=name, settings=settings, looked_at="", without="", with_="", passed=None, reason=reason)


def _probe_group(group: str, effects: list[Effect], installation: Installation) -> list[Outcome]:
    known = catalogue().by_name
    outcomes, here = [], []
    for effect in effects:
        presence = installation.look(known[effect.name])
        if presence.found:
            here.append(effect)
        else:
            outcomes.append(_not_here(effect.name, {effect.name: effect.value}, presence.reason))
    if not here:
        return outcomes
    along = {name: value for effect in here for name, value in effect.along.items()}
    if group in WHOLE_PROCESS:
        base = {**along, **({"OMP_NUM_THREADS": "2", "OMP_DISPLAY_ENV": "verbose"} if group == "threads" else {})}
        changed = {effect.name: effect.value for effect in here}
        without, with_ = _children(group, (base, {**base, **changed}), {})
    else:
        steps = {effect.name: {"value": effect.value, "along": effect.along} for effect in here}
        both = _child(group, {}, {"steps": steps})
        without = {name: text for key, text in both.items() if (name := key.removesuffix("/without")) != key}
        with_ = {name: text for key, text in both.items() if (name := key.removesuffix("/with")) != key}
    for effect in here:
        seen = without.get(effect.name), with_.get(effect.name)
        settings = {effect.name: effect.value, **effect.along}
        refused = without.get(f"{effect.name}!") or with_.get(f"{effect.name}!")
        if seen[0] is None or seen[1] is None:
            why = refused or both_died(without, with_)
            outcomes.append(_not_here(effect.name, settings, why))
            continue
        outcomes.append(
            Outcome(
                name=effect.name,
                settings=settings,
                looked_at=effect.looked_at,
                without=_shown(effect, seen[0]),
                with_=_shown(effect, seen[1]),
                passed=effect.claim(seen[0], seen[1]),
            )
        )
    return outcomes


def both_died(*answers: Mapping[str, str]) -> str:
    """Why a group's processes did not answer."""
    return next((answer["!"] for answer in answers if "!" in answer), "the process did not look at it")


def _shown(effect: Effect, text: str) -> str:
    """The line of the evidence that the claim is about."""
    lines = [line for line in text.splitlines() if line.strip()]
    if isinstance(effect.claim, _Text):
        sought = effect.claim.sought
        lines = [line for line in lines if sought in line] or [f"nothing with {sought.strip()}"]
    line = lines[0].strip() if lines else "nothing"
    return line if len(line) <= _SHOWN else line[: _SHOWN - 3] + "..."


def _children(
    group: str, halves: tuple[Mapping[str, str], Mapping[str, str]], request: Mapping[str, object]
) -> tuple[dict[str, str], dict[str, str]]:
    """Both halves of a group, side by side."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        first, second = (pool.submit(_child, group, settings, request) for settings in halves)
        return first.result(), second.result()


def _child(group: str, settings: Mapping[str, str], request: Mapping[str, object]) -> dict[str, str]:
    """What one fresh process saw: evidence by variable, or the reason under ``!``."""
    every = catalogue().by_name
    with tempfile.TemporaryDirectory(prefix="fuselab-env-") as into:
        environ = {name: value for name, value in os.environ.items() if name not in every}
        environ |= {"TMPDIR": into, "HOME": into, "CXX": os.environ.get("CXX", ""), "CC": os.environ.get("CC", "")}
        environ = {name: value for name, value in environ.items() if value or name not in ("CXX", "CC")}
        environ |= {name: value.replace("{into}", into) for name, value in settings.items()}
        environ = {name: value for name, value in environ.items() if value or name not in settings}
        command = [sys.executable, "-P", "-W", "ignore", "-m", "fuselab.env_vars.probe_child", group, into]
        finished = probe.run(
            [*command, msgspec.json.encode(request).decode()], deadline_s=DEADLINE_S, environment=environ
        )
        answers = [line for line in finished.output.splitlines() if line.startswith(MARK)]
        if not answers:
            words = finished.errors.strip().splitlines()
            return {"!": f"{finished.problem or 'no answer'}: {words[-1] if words else ''}"}
        seen = msgspec.json.decode(answers[-1].removeprefix(MARK), type=dict[str, str])
        return _outside(group, seen, finished, Path(into))


def _outside(group: str, seen: dict[str, str], finished: probe.Finished, into: Path) -> dict[str, str]:
    """What is seen from outside a process: its streams and its files."""
    printed = finished.output + finished.errors
    if group == "threads":
        seen["MKL_VERBOSE"] = seen["ONEDNN_VERBOSE"] = finished.output.split(MARK)[0]
        for name in ("OMP_WAIT_POLICY", "OMP_PROC_BIND", "GOMP_SPINCOUNT"):
            lines = [line for line in finished.errors.splitlines() if f"{name} = " in line]
            if lines:
                seen[name] = lines[0].partition(" = ")[2]
    elif group == "torch":
        seen["OMP_DISPLAY_ENV"] = finished.errors
    elif group == "logs":
        seen["TORCH_LOGS"] = seen["TORCH_LOGS_FORMAT"] = printed
        log = into / "compile.log"
        seen["TORCH_LOGS_OUT"] = log.read_text() if log.is_file() else "no file"
        seen["TORCH_TRACE"] = _listing(into / "trace")
    elif group == "inductor":
        seen["TORCHINDUCTOR_CACHE_DIR"] = _listing(into / "cache")
        seen["TORCH_COMPILE_DEBUG"] = _listing(into / "debug")
    return seen


def _listing(directory: Path) -> str:
    return "\n".join(sorted(path.name for path in directory.rglob("*") if path.is_file())) or "no file"


@functools.cache
def probed_names() -> frozenset[str]:
    """Every variable that has a probe."""
    fields = {variable.name for variable in catalogue().variable if _shows_field(variable)}
    return frozenset(fields | {effect.name for effect in EFFECTS})

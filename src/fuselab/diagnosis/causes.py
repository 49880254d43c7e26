"""The catalogue: causes of graph breaks and recompilations, how each is recognised, and what removes it. Data.

A graph break is recognised by the compiler's own type and context of it (``torch/_dynamo/graph_break_registry.json``
lists the types), a recompilation by the kind of guard that failed (``guards``). Order matters: the first match is it.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from fuselab.diagnosis.records import Guard

__all__ = ["CATALOGUE", "Cause", "cause_of_break", "cause_of_recompile", "find"]


@dataclass(frozen=True)
class Cause:
    """One cause and what removes it."""

    name: str
    """Its name, for records."""
    title: str
    """In a few words."""
    explanation: str
    """What the compiler cannot do, and what that costs."""
    advice: str
    """What removes it."""
    judgement: bool
    """Whether only the author can say if the removal is right: it changes more than speed."""
    rewrites: tuple[str, ...] = ()
    """Names of the rewrites to try (``rewrites.REWRITES``), the likeliest first."""
    gb_type: str = ""
    """Regular expression that the compiler's type of the break has to match; empty for causes of recompilations."""
    context: str = ""
    """Regular expression that the compiler's type or context has to match."""
    statement: type[ast.stmt] | None = None
    """Kind of statement that the user's line has to be."""
    guards: tuple[str, ...] = ()
    """Kinds of guard; empty for causes of graph breaks."""
    subjects: tuple[str, ...] = ()
    """Kinds of subject, where they matter."""


_BUILTIN = r"Failed to trace builtin operator"
_SKIPPED = r"marked as skipped|Failed to trace builtin operator|Unsupported function call"
_JUMP = r"Data-dependent|data-dependent|attempted to jump|Assertion failed on symbolic shapes|guard on data-dependent"

BREAKS = (
    Cause(
        "print",
        "a print",
        "Printing is done by Python, so the graph ends before it and another begins after it.",
        "Let the compiler move the print behind the computation, or take it out of the compiled function.",
        judgement=False,
        rewrites=("reorder_print", "reorder_formatted_print"),
        gb_type=_SKIPPED,
        context=r"builtin print\b|qualname: print\b",
    ),
    Cause(
        "log",
        "a log line",
        "Logging is done by Python, so the graph ends before it and another begins after it.",
        "Log outside of the compiled function, or have the compiler leave the line out of what it compiles.",
        judgement=True,
        rewrites=("reorder_log", "ignore_log"),
        gb_type=r"logging\.Logger method|" + _SKIPPED,
        context=r"<Logger |logging|qualname: (?:Logger\.|info|debug|warning|error)",
    ),
    Cause(
        "warning",
        "a warning",
        "Warnings are given by Python, so the graph ends before it and another begins after it.",
        "Let the compiler move the warning behind the computation, or take it out of the compiled function.",
        judgement=False,
        rewrites=("reorder_warning",),
        gb_type=_SKIPPED,
        context=r"module: _?warnings\b|qualname: warn\b|builtin warn\b",
    ),
    Cause(
        "data_dependent_loop",
        "a loop that depends on a tensor's values",
        "How often the loop runs is known only when the tensor is: the whole function is left to Python.",
        "Run a fixed number of steps and select with torch.where, or use torch.while_loop.",
        judgement=True,
        gb_type=_JUMP + r"|Tensor\.item\(\)|graph break in loop",
        statement=ast.While,
    ),
    Cause(
        "item",
        "a tensor's value taken into Python",
        "The value is known only when everything before it has run: the graph ends there, and on a GPU the host waits.",
        "Stay with the tensor: without .item() it computes the same, and torch.where takes the place of the branch.",
        judgement=False,
        rewrites=("where", "drop_item", "drop_item_where", "capture_scalars"),
        gb_type=r"Tensor\.item\(\)|Data dependent operator|wrap unbacked SymInt",
    ),
    Cause(
        "data_dependent_branch",
        "a branch that depends on a tensor's values",
        "Which way it goes is known only when everything before it has run: the graph ends there.",
        "Compute both sides and select with torch.where; or torch.cond, where one side is costly.",
        judgement=False,
        rewrites=("where",),
        gb_type=_JUMP,
    ),
    Cause(
        "data_dependent_shape",
        "an operator whose result's shape depends on a tensor's values",
        "How large the result is, is known only when the tensor is: the graph ends before the operator.",
        "Keep the shape (torch.where with a mask in place of selecting), or have such operators captured.",
        judgement=False,
        rewrites=("capture_dynamic_shapes",),
        gb_type=r"Dynamic shape operator|Dynamic slicing with Tensor",
    ),
    Cause(
        "tolist",
        "a tensor turned into a Python list",
        "The values are known only when everything before has run: the graph ends there, and on a GPU the host waits.",
        "Index the tensor instead of a list made from it.",
        judgement=True,
        rewrites=("drop_tolist",),
        gb_type=r"Tensor\.tolist\(\)",
    ),
    Cause(
        "numpy",
        "NumPy that the compiler has no translation for",
        "Some NumPy functions are compiled as torch operators, this one is not: the graph ends there.",
        "Write it with torch operators.",
        judgement=True,
        gb_type=r".*",
        context=r"[Nn]um[Pp]y|ndarray",
    ),
    Cause(
        "clock",
        "the clock is read",
        "What the time is cannot be part of a graph, and a time taken inside one would measure nothing.",
        "Take times around the compiled function.",
        judgement=True,
        gb_type=r"Call to a time function|" + _SKIPPED,
        context=r"module: time\b|qualname: (?:time|perf_counter|monotonic|process_time)(?:_ns)?\b|time\.\w+|`time`",
    ),
    Cause(
        "debugger",
        "a breakpoint",
        "A debugger stops Python, which is not there inside a graph.",
        "Take it out.",
        judgement=True,
        gb_type=_SKIPPED,
        context=r"builtin breakpoint\b|module: pdb\b|qualname: (?:Pdb|set_trace)",
    ),
    Cause(
        "input_output",
        "a file or the terminal is read",
        "Reading and writing are done by Python, so the graph ends there.",
        "Read before the compiled function is called, and pass in what was read.",
        judgement=True,
        gb_type=_SKIPPED,
        context=r"builtin (?:open|input)\b|module: (?:io|_io|os|posix|pathlib)\b|TextIOWrapper|BufferedReader",
    ),
    Cause(
        "explicit_break",
        "a graph break that was asked for",
        "torch._dynamo.graph_break() ends the graph.",
        "Take it out.",
        judgement=True,
        rewrites=("remove_statement",),
        gb_type=r"torch\._dynamo\.graph_break\(\)",
    ),
    Cause(
        "disabled_function",
        "a function that is kept from being compiled",
        "torch.compiler.disable keeps the function out: the graph ends before the call and another begins after it.",
        "Take the decorator off, or call the function before or after the compiled part.",
        judgement=True,
        gb_type=r"torch\.(?:compiler|_dynamo)\.disable|skip_frame|step_unsupported",
    ),
    Cause(
        "context_manager",
        "a context manager that the compiler does not know",
        "A graph can neither begin nor end inside of it, so the function is left to Python.",
        "Enter it outside of the compiled function.",
        judgement=True,
        gb_type=r"[Uu]nsupported context manager|GenericContextWrapping|context manager",
    ),
    Cause(
        "autograd_inside",
        "autograd is driven inside the compiled function",
        "backward(), requires_grad_() and the like change what the graph is for: it ends there.",
        "Compile the forward alone and call backward() outside: the backward is compiled along with it.",
        judgement=True,
        gb_type=r"backward\(\)|requires_grad_\(\)|retain_grad|autograd\.grad|grad_fn",
    ),
    Cause(
        "exception",
        "an exception inside the compiled function",
        "The compiler follows raise and except only so far: the graph ends there.",
        "Test for what is wrong before, outside of the compiled function.",
        judgement=True,
        gb_type=r"Observed exception|failed to raise|Exception with|[Ee]xception",
    ),
    Cause(
        "python_function",
        "a function that the compiler cannot look into",
        "It is written in C, or on the compiler's list of those it leaves alone: the graph ends there.",
        "Call it outside of the compiled function and pass in its result; if it computes on tensors, make it a "
        "torch.library.custom_op.",
        judgement=True,
        gb_type=_SKIPPED + r"|[Bb]uiltin|C/C\+\+|method call|inline|C-level|Untraceable",
    ),
    Cause(
        "unsupported",
        "something that this compiler does not support",
        "The graph ends there; the compiler's own words and hints are below.",
        "Follow the compiler's hints, or move it out of the compiled function.",
        judgement=True,
        gb_type=r".*",
    ),
)
"""Causes of graph breaks."""

RECOMPILES = (
    Cause(
        "changing_size",
        "an axis whose size changes",
        "The first size was compiled in. After a second one the compiler makes the axis dynamic by itself, which costs "
        "this recompilation; from then on every size from 2 up runs the same code.",
        "Say so before the first call: torch._dynamo.mark_dynamic, or torch.compile(dynamic=True).",
        judgement=False,
        rewrites=("mark_dynamic", "mark_all_dynamic", "compile_dynamic"),
        guards=("size",),
    ),
    Cause(
        "shape_condition",
        "the code asks how large an axis is",
        "A condition on a size (an if, a broadcast, sizes 0 and 1) holds for some sizes only: each side is compiled.",
        "Where both sides are needed this is the price. Else take the condition out, or pad to sizes on one side.",
        judgement=True,
        guards=("shape_condition",),
    ),
    Cause(
        "changing_intermediate",
        "a number that was computed before a graph break",
        "Behind a graph break Python numbers are arguments of the code that goes on, and their values are compiled in.",
        "Remove the graph break before it: the number then stays inside the graph.",
        judgement=False,
        guards=("integer", "float", "flag"),
        subjects=("intermediate",),
    ),
    Cause(
        "changing_float",
        "a Python float that changes",
        "Its first value was compiled in as a constant.",
        "Pass it as a tensor without axes: torch.tensor(value, dtype=torch.float64).",
        judgement=False,
        rewrites=("tensor_argument", "compile_dynamic"),
        guards=("float",),
        subjects=("argument",),
    ),
    Cause(
        "changing_integer",
        "a Python integer that changes",
        "Its first value was compiled in as a constant; after a second one the compiler takes it for a variable.",
        "Say so before the first call, torch.compile(dynamic=True); or pass it as a tensor without axes.",
        judgement=False,
        rewrites=("compile_dynamic", "tensor_argument"),
        guards=("integer",),
        subjects=("argument",),
    ),
    Cause(
        "changing_attribute",
        "a number on an object that changes",
        "Numbers on a module are compiled in as constants: each new value is compiled again, up to the limit.",
        "Make it a buffer: register_buffer(name, torch.tensor(value), persistent=False).",
        judgement=False,
        rewrites=("buffer_attribute", "unspecialized_integers"),
        guards=("integer", "float"),
        subjects=("attribute",),
    ),
    Cause(
        "changing_length",
        "a list or dict whose length changes",
        "Loops over Python containers are unrolled: the length was compiled in.",
        "Stack what is in it into one tensor, or keep the length.",
        judgement=True,
        guards=("length",),
    ),
    Cause(
        "changing_global",
        "a global variable that changes",
        "Its value was compiled in as a constant.",
        "Pass it as an argument, as a tensor if it is a number that changes often.",
        judgement=True,
        guards=("integer", "float", "flag", "text", "none", "identity", "type"),
        subjects=("global",),
    ),
    Cause(
        "training_mode",
        "train() and eval()",
        "A module computes something else in each mode, so each is compiled once.",
        "Nothing, if both are used in the long run: it happens once. Else stay in one mode.",
        judgement=True,
        guards=("training",),
    ),
    Cause(
        "changing_flag",
        "a switch that changes",
        "Python's branches are taken while compiling: each value of a bool, a string or None is a graph of its own.",
        "Where few values come this is the price, once each. Where many come, decide outside of the compiled function.",
        judgement=True,
        guards=("flag", "text", "none"),
    ),
    Cause(
        "changing_dtype",
        "an argument whose dtype changes",
        "Code is generated for one dtype.",
        "Cast before the call, or keep one compiled version a dtype: it happens once each.",
        judgement=True,
        guards=("dtype",),
    ),
    Cause(
        "changing_device",
        "an argument whose device changes",
        "Code is generated for one device.",
        "Move tensors before the call.",
        judgement=True,
        guards=("device", "dispatch_key_set"),
    ),
    Cause(
        "changing_stride",
        "an argument whose memory layout changes",
        "Code is generated for one order of axes in memory.",
        "Call .contiguous() before the call, which copies; or make the tensor in the same layout always.",
        judgement=True,
        rewrites=(),
        guards=("stride",),
    ),
    Cause(
        "changing_rank",
        "an argument whose number of axes changes",
        "Code is generated for one number of axes.",
        "Add the missing axes before the call (unsqueeze), or keep one compiled version a rank.",
        judgement=True,
        guards=("rank",),
    ),
    Cause(
        "changing_requires_grad",
        "an argument that requires grad in some calls only",
        "With gradients a backward is compiled along, without none: each is compiled once.",
        "Nothing, if both are used in the long run. Else detach, or run under torch.no_grad() in every call.",
        judgement=True,
        guards=("requires_grad",),
    ),
    Cause(
        "grad_mode",
        "torch.no_grad() around some calls only",
        "Whether gradients are recorded decides what is compiled: each is compiled once.",
        "Nothing, if training and inference share the function: it happens once each.",
        judgement=True,
        guards=("grad_mode",),
    ),
    Cause(
        "global_state",
        "torch's global state changed",
        "Default dtype or device, autocast, threads, deterministic algorithms: all are compiled in.",
        "Set it once, before the first call.",
        judgement=True,
        guards=("global_state",),
    ),
    Cause(
        "new_object",
        "a function or an object that is made anew for each call",
        "It is recognised by its identity, and a new one might do anything.",
        "Make it once, outside of the loop: lambdas, functools.partial and nested functions are new objects each time.",
        judgement=True,
        guards=("identity",),
    ),
    Cause(
        "changing_type",
        "an argument of another type",
        "Code is compiled for the types that came; None in place of a tensor is another type.",
        "Where few types come this is the price, once each. Else convert before the call.",
        judgement=True,
        guards=("type",),
    ),
    Cause(
        "other_guard",
        "something that the compiled code had taken for granted",
        "A guard failed that this catalogue does not know; the compiler's own words are below.",
        "Look at the guard: it names the value that has to stay as it is.",
        judgement=True,
    ),
)
"""Causes of recompilations."""

LIMIT = Cause(
    "recompile_limit",
    "compiled too often",
    "After torch._dynamo.config.recompile_limit versions the compiler gives up: every call that fits none of them runs "
    "uncompiled, without a word.",
    "Remove the cause of the recompilations. Raising the limit only helps where the number of versions is small and "
    "known.",
    judgement=True,
)
"""The limit of recompilations was reached."""

FAILED = Cause(
    "compiler_failed",
    "the compiler failed",
    "The compiler raised where Python does not.",
    "Keep this function out with torch.compiler.disable until it is mended; the compiler's own words are below.",
    judgement=True,
)
"""The compilation raised."""

CATALOGUE: tuple[Cause, ...] = (*BREAKS, *RECOMPILES, LIMIT, FAILED)
"""Every cause, in the order in which they are tried."""


def cause_of_break(gb_type: str, context: str, statement: ast.stmt | None) -> Cause:
    """The cause of a graph break.

    Args:
        gb_type: the compiler's type.
        context: the compiler's context.
        statement: the user's statement; None where the source is not available.

    Example:
        >>> cause_of_break("Data-dependent branching", "", None).name
        'data_dependent_branch'
    """
    for cause in BREAKS:
        if not re.search(cause.gb_type, gb_type):
            continue
        if cause.context and not re.search(cause.context, f"{gb_type}\n{context}"):
            continue
        if cause.statement is not None and not isinstance(statement, cause.statement):
            continue
        return cause
    return BREAKS[-1]


def cause_of_recompile(guard: Guard) -> Cause:
    """The cause of a recompilation.

    Example:
        >>> cause_of_recompile(Guard(expression="k == 2", kind="integer", subject="k", subject_kind="argument")).name
        'changing_integer'
    """
    for cause in RECOMPILES:
        if guard.kind in cause.guards and (not cause.subjects or guard.subject_kind in cause.subjects):
            return cause
    return RECOMPILES[-1]


def find(name: str) -> Cause:
    """The cause of that name; raises ``KeyError`` where there is none."""
    return {cause.name: cause for cause in reversed(CATALOGUE)}[name]

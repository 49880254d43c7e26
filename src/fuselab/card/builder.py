"""The kernel card: what a kernel computes, moves, executes and is limited by, from what was captured of it.

Pure but for reading the kernel's own files. Every section is either there or ``{"absent": reason}``; a section that
cannot be made never keeps the others from being made. ``docs/kernel-cards.md`` explains each figure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fuselab.card.fusion import refusals_by_kernel, scheduled
from fuselab.card.graph import GraphFacts
from fuselab.card.kernel import AbsentError, KernelFacts, named
from fuselab.card.launch import LaunchArguments, ScalarArgument, TensorArgument, read_launches
from fuselab.card.limiter import Facts, predict
from fuselab.card.operators import Operators, read_operators
from fuselab.card.repro import ReproFacts, argument_node, input_node, repro_script
from fuselab.ir.instructions_cpu import parse_assembly
from fuselab.targets import Target

__all__ = ["CARD_VERSION", "CardBuilder"]

CARD_VERSION = 2

_OPTIONS = ("num_warps", "num_stages", "num_ctas", "maxnreg")
_USUAL = {
    "debug": False,
    "enable_fp_fusion": True,
    "enable_reflect_ftz": True,
    "launch_cooperative_grid": False,
    "launch_pdl": False,
    "sanitize_overflow": True,
}
"""Options that change the machine code, with what Triton takes where nothing is said. Inductor switches the check of
integer overflow off: with it a kernel has more instructions and up to 17 registers more."""
_MOST_LAUNCHES = 20
_MOST_NEIGHBOURS = 100
"""Kernels and reasons that a card lists; of a graph with thousands of kernels each card would name them all."""


class CardBuilder:
    """Fills in the cards of one graph's kernels.

    Args:
        graph: the graph.
        target: the device that the kernels are for; None: the described device whose architecture and multiprocessors
            their sources name.
    """

    def __init__(self, graph: GraphFacts, target: Target | None = None) -> None:
        self._graph = graph
        self._target = target
        self._launches: dict[str, list[LaunchArguments]] = {}
        for launch in read_launches(graph.code):
            self._launches.setdefault(launch.kernel, []).append(launch)
        self._schedule = scheduled(graph.schedule or (), graph.nodes_of)
        self._refusals = refusals_by_kernel(self._schedule, graph.refusals)

    def fill(self, card: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any], str | None]:
        """A kernel's whole card, and the text of its ``repro.py``; None where it cannot have one.

        Args:
            card: what the kernel's record and its binary say.
            folder: where its source and stages were saved.
        """
        kernel = KernelFacts(dict(card), folder)
        launches = self._launches.get(str(card["name"]), [])

        def read(this: KernelFacts) -> dict[str, Any]:
            this.read(launches[0] if launches else None, self._target)
            return {}

        prepared = _section(read, kernel)
        repro: list[str] = []

        def script(this: KernelFacts) -> dict[str, Any]:
            repro.append(self._repro(this))
            return {"file": "repro.py", "run": "python repro.py"}

        sections = {
            "card_version": CARD_VERSION,
            "launch": _section(self._launch, kernel),
            "split": _section(self._split, kernel),
            "autotune": _section(self._autotune, kernel),
            "traffic": _section(self._traffic, kernel),
            "occupancy": _section(self._occupancy, kernel),
            "instructions": _section(self._instructions, kernel),
            "limiter": _section(self._limiter, kernel),
            "repro": _section(script, kernel),
        }
        if "absent" in prepared:
            sections["incomplete"] = prepared["absent"]
        return {**kernel.card, **sections}, next(iter(repro), None)

    def _launch(self, kernel: KernelFacts) -> dict[str, Any]:
        launches = self._launches.get(kernel.card["name"], [])
        if kernel.card["backend"] == "extern":
            raise AbsentError("a library's kernel: its launch is not Inductor's own")
        if not launches:
            raise AbsentError("the output module does not launch it, or launches it in a way that is not read")
        grid: Any = None
        if kernel.card["backend"] == "triton":
            grid = list(kernel.grid) if kernel.grid is not None else {"absent": kernel.grid_absent}
        return {
            "grid": grid,
            "programs": None if kernel.grid is None else math.prod(kernel.grid),
            "arguments": [_described(name, a) for name, a in named(kernel.names, launches[0])],
            "launches": [
                {"line": launch.line, "arguments": [_short(a) for a in launch.arguments]}
                for launch in launches[:_MOST_LAUNCHES]
            ],
        }

    def _split(self, kernel: KernelFacts) -> dict[str, Any]:
        if self._graph.schedule is None:
            raise AbsentError("taken from Inductor's cache, which does not keep what the scheduler said")
        if not self._schedule.kernel_of:
            raise AbsentError("Inductor's schedule could not be read in this version of torch")
        name = kernel.card["name"]
        found = self._refusals.get(name, [])
        tried = {name, *(refusal.neighbour for refusal in found)}
        silent = [other for other in self._graph.nodes_of if other not in tried]
        return {
            "from": [refusal.summary() for refusal in found[:_MOST_NEIGHBOURS]],
            "never_tried_with": silent[:_MOST_NEIGHBOURS],
            "neighbours": {"refused": len(found), "never_tried": len(silent)},
            "alone": not found and not silent,
        }

    def _autotune(self, kernel: KernelFacts) -> dict[str, Any]:
        if kernel.card["backend"] != "triton":
            raise AbsentError("only Triton kernels are tuned")
        chosen = kernel.card.get("triton_hash")
        others = [other.get("triton_hash") for other in kernel.card.get("other_configurations") or ()]
        timed = [self._graph.timings[name] for name in dict.fromkeys([chosen, *others]) if name in self._graph.timings]
        if not timed:
            raise AbsentError(
                "it has one configuration: there was nothing to choose"
                if not others
                else "no configuration was timed while it was captured"
            )
        timed.sort(key=lambda t: (t.time_us is None, t.time_us))
        return {"configurations": [{**vars(t), "chosen": t.triton_hash == chosen} for t in timed]}

    def _traffic(self, kernel: KernelFacts) -> dict[str, Any]:
        backend = kernel.card["backend"]
        if backend not in ("triton", "cpp"):
            raise AbsentError(f"a kernel of backend {backend} is not read")
        if kernel.traffic is None:
            raise AbsentError("there is no TTIR" if backend == "triton" else "the C++ source could not be read")
        if backend == "triton" and kernel.grid is None:
            raise AbsentError(f"the grid is not known: {kernel.grid_absent}")
        return kernel.traffic.summary()

    def _occupancy(self, kernel: KernelFacts) -> dict[str, Any]:
        if kernel.card["backend"] != "triton":
            raise AbsentError("not a GPU kernel")
        if kernel.occupancy is None:
            raise AbsentError(kernel.target_absent or "its registers or warps are not known: there is no binary")
        device = kernel.target.device_name if kernel.target else ""
        return {"device": device, **kernel.occupancy.summary()}

    def _instructions(self, kernel: KernelFacts) -> dict[str, Any]:
        if kernel.card["backend"] == "cpp":
            try:
                return parse_assembly(kernel.text("assembly"), kernel.cpp.name if kernel.cpp else "kernel").summary()
            except ValueError as error:
                raise AbsentError(str(error)) from error
        if kernel.card["backend"] == "extern":
            raise AbsentError("a library's kernel: its code is not captured")
        if kernel.mix is None:
            kernel.text("sass")
            raise AbsentError("the SASS could not be read")
        elements = kernel.traffic.elements if kernel.traffic else 0
        a_element = None
        if elements and kernel.grid is not None and kernel.card.get("num_warps"):
            threads = math.prod(kernel.grid) * kernel.card["num_warps"] * 32
            a_element = kernel.mix.total * threads / elements
        return {"an_element": a_element, **kernel.mix.summary()}

    def _limiter(self, kernel: KernelFacts) -> dict[str, Any]:
        if kernel.card["backend"] != "triton":
            raise AbsentError("the model is of described GPUs")
        if kernel.target is None or (kernel.target_absent and self._target is None):
            raise AbsentError(f"the device is not known: {kernel.target_absent}")
        missing = [
            what
            for what, value in (
                ("traffic", kernel.traffic),
                ("instructions", kernel.mix),
                ("occupancy", kernel.occupancy),
                ("grid", kernel.grid),
            )
            if value is None
        ]
        if missing or kernel.traffic is None or kernel.mix is None or kernel.occupancy is None or kernel.grid is None:
            raise AbsentError(f"not known: {', '.join(missing)}")
        facts = Facts(
            kernel.target,
            kernel.traffic,
            kernel.mix,
            kernel.occupancy,
            math.prod(kernel.grid),
            kernel.card["num_warps"],
            kernel.mix.load_rounds,
        )
        try:
            return {"device": kernel.target.device_name, **predict(facts).summary()}
        except ValueError as error:
            raise AbsentError(str(error)) from error

    def _repro(self, kernel: KernelFacts) -> str:
        card = kernel.card
        if card["backend"] not in ("triton", "cpp"):
            raise AbsentError(f"a kernel of backend {card['backend']} is not Inductor's own source")
        if kernel.launch is None:
            raise AbsentError("the output module does not launch it")
        if len(kernel.names) != len(kernel.launch.arguments):
            raise AbsentError("its launch has another number of arguments than its source")
        if kernel.traffic is None:
            raise AbsentError("which of its arguments are outputs is not known: its code could not be read")
        roles = {argument.name: argument.role for argument in kernel.traffic.arguments}
        parameters = kernel.source.parameters if kernel.source else ()
        config = {k: v for k, v in (card.get("config") or {}).items() if k in parameters and k not in kernel.names}
        metadata = card.get("triton_metadata") or {}
        options = {k: metadata[k] for k in _OPTIONS if metadata.get(k) is not None}
        options |= {k: metadata[k] for k, usual in _USUAL.items() if metadata.get(k, usual) != usual}
        cpp = kernel.cpp.arguments if kernel.cpp else []
        facts = ReproFacts(
            name=card["name"],
            backend=card["backend"],
            file="kernel.cpp" if card["backend"] == "cpp" else "kernel.py",
            function=kernel.cpp.name if kernel.cpp else (kernel.source.function if kernel.source else ""),
            launch=kernel.launch,
            names=kernel.names,
            roles=roles,
            buffer_nodes=self._graph.buffers,
            operators=self._operators(kernel, roles),
            signature=[f"{'const ' if a.const else ''}{a.type}{'*' if a.pointer else ''}" for a in cpp],
            grid=kernel.grid,
            config=config if kernel.grid is not None else None,
            options=options,
        )
        try:
            return repro_script(facts)
        except ValueError as error:
            raise AbsentError(str(error)) from error

    def _operators(self, kernel: KernelFacts, roles: Mapping[str, str]) -> Operators:
        if not self._graph.post_grad:
            return Operators(reason="the post-grad graph was not captured")
        if not self._graph.buffers:
            return Operators(reason="which graph node each buffer holds was not recorded")
        inputs, outputs = [], []
        for name, argument in named(kernel.names, kernel.launch):
            if not isinstance(argument, TensorArgument):
                continue
            role = roles.get(name, "input")
            if role != "output" and (node := input_node(argument, self._graph.buffers, role == "in-out")):
                inputs.append(node)
            if role != "input" and (node := argument_node(argument, self._graph.buffers)):
                outputs.append(node)
        return read_operators(self._graph.post_grad, inputs, outputs)


def _section(make: Callable[[KernelFacts], dict[str, Any]], kernel: KernelFacts) -> dict[str, Any]:
    try:
        return make(kernel)
    except AbsentError as absent:
        return {"absent": str(absent)}
    except Exception as error:  # noqa: BLE001 - raising here would fail the user's compilation
        return {"absent": f"it could not be made: {type(error).__name__}: {error}"}


def _described(name: str, argument: Any) -> dict[str, Any]:
    if isinstance(argument, TensorArgument):
        return {
            "name": name,
            "buffer": argument.name,
            "shape": list(argument.shape),
            "stride": list(argument.stride),
            "dtype": argument.dtype,
            "offset": argument.offset,
        }
    if isinstance(argument, ScalarArgument):
        return {"name": name, "value": argument.value}
    return {"name": name, "absent": argument.reason}


def _short(argument: Any) -> Any:
    if isinstance(argument, TensorArgument):
        return argument.name
    return argument.value if isinstance(argument, ScalarArgument) else {"absent": argument.reason}

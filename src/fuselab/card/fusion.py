"""Why a kernel was not fused with its neighbours, in plain words, from what Inductor's scheduler itself said.

Pure. The scheduler logs each refusal as ``cannot fuse A with B: reason``, A and B being names of scheduler nodes as
they were at that moment. Each is laid to the two kernels that the nodes ended up in. Reasons of the releases 2.11 to
2.15 have plain words here; others are passed on as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["PLAIN_WORDS", "FusedGroup", "Refusal", "Scheduled", "plain_words", "refusals_by_kernel", "scheduled"]

PLAIN_WORDS: tuple[tuple[str, str], ...] = (
    (
        "no shared data due to indexing mismatch",
        "they use the same buffer but walk it in different orders, such as along the other axis of a reduction",
    ),
    ("fusion_prevent_too_many_reads_and_writes", "the fused kernel would use more buffers than the limit allows"),
    ("score_fusion_memory_threshold", "fusing them would save less memory traffic than the limit asks for"),
    (
        "no shared data",
        "they read or write nothing in common that fusing would save (the same buffer walked in another order, "
        "such as along the other axis of a reduction, does not count)",
    ),
    (
        "intermediate nodes between node1 & node2",
        "something that the first feeds and the second needs has to run between them",
    ),
    ("node1 must go before node2", "the second feeds the first: they would have to run in the opposite order"),
    (
        "numel/rnumel mismatch (reduce)",
        "both reduce, but over different shapes: one loop cannot walk both",
    ),
    (
        "numel/rnumel mismatch (non-reduce)",
        "they have different numbers of elements: one loop cannot walk both",
    ),
    (
        "numel/rnumel mismatch prologue mismatch",
        "the producer has another number of elements than the template loads",
    ),
    (
        "nodes numel/rnumel incompatibility",
        "the element-wise part cannot be indexed by the rows and columns of the reduction",
    ),
    (
        "nodes numel incompatibility",
        "the element-wise part has another number of elements than the result of the reduction",
    ),
    ("invalid tiling for reduction", "the element-wise part is tiled in a way that the reduction's loop cannot follow"),
    ("invalid loop order and tiling for native matmul", "the matrix product needs another order of loops"),
    ("tiling mismatch", "they are tiled differently: fused, one of them would access memory out of order"),
    (
        "memory deps did not match",
        "the second reads what the first writes in another order or at other places than it is written",
    ),
    ("device mismatch", "they run on different devices"),
    ("node1 is extern or nop", "the first is a call of a library, which nothing can be fused into"),
    ("node2 is extern or nop", "the second is a call of a library, which nothing can be fused into"),
    ("node1 is extern but", "the first is a call of a library, which this cannot be fused into"),
    ("node1 is nop", "the first computes nothing by itself"),
    (
        "node1's triton kernel doesn't support epilogue fusion",
        "the first is a Triton kernel of the user's: it is not rewritten",
    ),
    ("fusion for buffer explicit disabled", "fusing this buffer was switched off explicitly"),
    ("grouped node must not be fused with other nodes", "it is part of a group that is kept together as it is"),
    ("slow_fusion", "both were timed: the fused kernel was slower than the two"),
    ("Fusion will increase peak memory", "fusing them would keep more memory alive at once"),
    ("fusion will increase peak memory", "fusing them would keep more memory alive at once"),
    ("exceeds max fusion", "the fused kernel would have more nodes than the limit allows"),
    ("Nodes are too far away", "they are far apart in the program: fusing would keep memory alive in between"),
    ("nodes are too far away", "they are far apart in the program: fusing would keep memory alive in between"),
    (
        "register spilling of the",
        "the kernels were compiled and timed: fused, registers would spill to memory",
    ),
    ("Split scan cannot fuse with reductions", "a scan that is split among programs cannot take a reduction in"),
    ("node1 and node2 uses different buf layouts", "they need one buffer in two layouts"),
    ("template epilogue not satisfied", "the template takes no epilogue of this kind"),
    ("multi-output template epilogue requires ComputedBuffer", "the template takes no epilogue of this kind"),
    ("epilogue reads from buffers other than the mutated output", "the epilogue needs more than the template's output"),
    ("prologue fusion turned off", "fusing producers into templates is switched off"),
    ("prologue fusion only supported for", "only element-wise producers are fused into a template"),
    ("prologue fusion not implemented", "the template cannot take this producer in"),
    ("prologue fusion will not increase amount of bytes read", "taking the producer in would not lower what is read"),
    ("prologue fusion will not increase attempt to fuse in padding", "padding taken in would make reads misaligned"),
    (
        "prologue fusion that must be upcast to fp32 not profitable",
        "the producer computes in float32, which costs more in a low-precision template than it saves",
    ),
    ("template prologue can only fuse", "only element-wise producers with a single use are fused into a template"),
    ("template has no allowed prologue inputs", "the template cannot take a producer in at any of its inputs"),
    ("foreach do not have same length", "they are lists of tensors of different lengths"),
    ("candidate producer is not dep of any foreach consumer", "nothing in the list of tensors uses it"),
    ("candidate consumer has no dep in any foreach producer", "it uses nothing of the list of tensors"),
    ("candidate producer is a reduction, foreach", "lists of tensors are not fused with reductions"),
    ("candidate consumer is a reduction, foreach", "lists of tensors are not fused with reductions"),
    ("At least one node passed to ForeachKernelSchedulerNode", "neither is a list of tensors"),
    ("reduction fusion does not preserve strict reduction ordering", "the order of sums was asked to be kept"),
    ("template fusion does not preserve strict reduction ordering", "the order of sums was asked to be kept"),
    ("incompatible reduction contracts", "their reductions were asked to be done in different ways"),
    ("a consumer depends on another producer sub-node", "one needs what another part of the other makes"),
    ("nested reduction append", "a reduction inside the other's loop could not be placed"),
    ("staged", "a reduction in stages could not be kept"),
    ("sub-parent epilogue planning failed", "the epilogue could not be placed inside the reduction"),
    ("invalid sub-parent epilogue fusion", "the epilogue could not be placed inside the reduction"),
    ("consumer is not wholly in the sub-parent epilogue", "the epilogue could not be placed inside the reduction"),
    ("epilogue is not a unary read of the output buffer", "the epilogue uses more than the one output"),
    ("epilogue's read and write indices differ", "the epilogue reads and writes at different places"),
)
"""How a reason begins, and what it means; the first that fits counts."""

_REFUSAL = re.compile(r"cannot fuse (?P<first>\S+) with (?P<second>\S+): (?P<reason>.*)", re.DOTALL)
_LONGEST = 400


@dataclass(frozen=True)
class FusedGroup:
    """One scheduler node after fusion."""

    name: str
    """The scheduler's name: its members', joined."""
    kind: str
    """Class of the scheduler node: ``FusedSchedulerNode``, ``ExternKernelSchedulerNode``, ..."""
    members: tuple[tuple[str, tuple[str, ...]], ...]
    """Each member's name with the post-grad nodes that it comes from."""


@dataclass(frozen=True)
class Scheduled:
    """Which kernel each scheduler node ended up in."""

    kernel_of: Mapping[str, str]
    """Scheduler node to kernel."""


@dataclass(frozen=True)
class Refusal:
    """One reason for which a kernel was kept apart from another."""

    neighbour: str
    """The other kernel."""
    words: str
    """In plain words."""
    said: str
    """As the scheduler put it."""
    times: int
    final: bool
    """Whether it was said of the largest pieces: the last word between the two."""

    def summary(self) -> dict[str, Any]:
        """As written to the kernel's card."""
        return dict(vars(self))


def plain_words(reason: str) -> str:
    """A reason of the scheduler's in plain words; the reason itself where it is not known.

    Example:
        >>> plain_words("device mismatch (cuda:0 vs cpu)")
        'they run on different devices'
        >>> plain_words("the moon is full")
        'the moon is full'
    """
    return next((words for start, words in PLAIN_WORDS if reason.startswith(start)), reason[:_LONGEST])


def scheduled(groups: Sequence[FusedGroup], nodes_of: Mapping[str, Iterable[str]]) -> Scheduled:
    """Lay each group of scheduler nodes to the kernel that computes its graph nodes.

    Args:
        groups: the schedule after fusion.
        nodes_of: kernel to graph nodes, from the compiler's provenance.
    """
    kernels = {name: set(nodes) for name, nodes in nodes_of.items()}
    found: dict[str, str] = {}
    for group in groups:
        origins = {node for _, nodes in group.members for node in nodes}
        shared = {name: len(origins & nodes) for name, nodes in kernels.items() if origins & nodes}
        if not shared:
            continue
        # The most nodes in common; among equals the kernel with the fewest others.
        kernel = max(shared, key=lambda name: (shared[name], -len(kernels[name])))
        for member, _ in group.members:
            found[member] = kernel
    return Scheduled(found)


def refusals_by_kernel(schedule: Scheduled, refusals: Mapping[str, int]) -> dict[str, list[Refusal]]:
    """Why each kernel was kept apart from others: one entry a neighbour and reason, the final ones first.

    All kernels in one pass, because a graph of thousands has thousands of refusals.

    Example:
        >>> schedule = Scheduled({"op0": "k0", "op1": "k1"})
        >>> found = refusals_by_kernel(schedule, {"cannot fuse op0 with op1: device mismatch (a vs b)": 2})
        >>> found["k1"][0].neighbour, found["k1"][0].words
        ('k0', 'they run on different devices')
    """
    found: dict[tuple[str, str, str], tuple[str, int, int]] = {}
    largest: dict[tuple[str, str], int] = {}
    for text, times in refusals.items():
        match = _REFUSAL.match(text)
        if match is None:
            continue
        first, second = _members(match["first"], schedule), _members(match["second"], schedule)
        ours, theirs = {schedule.kernel_of[m] for m in first}, {schedule.kernel_of[m] for m in second}
        if len(ours) != 1 or len(theirs) != 1 or ours == theirs:
            continue
        (a,), (b,) = ours, theirs
        reason = match["reason"].strip()
        words, size = plain_words(reason), len(first) + len(second)
        for kernel, neighbour in ((a, b), (b, a)):
            before = found.get((kernel, neighbour, words), (reason, 0, 0))
            said = before[0] if before[2] >= size else reason
            found[kernel, neighbour, words] = (said, before[1] + times, max(before[2], size))
            largest[kernel, neighbour] = max(largest.get((kernel, neighbour), 0), size)
    listed: dict[str, list[Refusal]] = {}
    for (kernel, neighbour, words), (said, times, size) in found.items():
        final = size == largest[kernel, neighbour]
        listed.setdefault(kernel, []).append(Refusal(neighbour, words, said[:_LONGEST], times, final))
    for each in listed.values():
        each.sort(key=lambda refusal: (not refusal.final, refusal.neighbour))
    return listed


def _members(name: str, schedule: Scheduled) -> list[str]:
    """The scheduler nodes in a fused node's name (``op0_op3``), those that ended up in a kernel known here."""
    if name in schedule.kernel_of:
        return [name]
    return [part for part in name.split("_") if part in schedule.kernel_of]

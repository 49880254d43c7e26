"""Documents of the panes: an index that is small, and what a kernel or a graph has, each inflated when it is opened.

What the script reads, by name: ``panes-index`` lists runs, kernels and interruptions; ``panes-gN`` holds one compiled
graph (the user's lines, the graphs, the output code, the nodes of its chain); ``panes-kN`` one kernel (its source,
every stage below it, the lines of its chain, its card).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from fuselab.capture.chain import Chain, ChainGraph, ChainKernel
from fuselab.errors import StoreError
from fuselab.page.panes_source import Interruption, interruption, user_files
from fuselab.page.panes_texts import Documents, Texts
from fuselab.records import Artifact, Kernel, Measurement, RunMetadata, Stage
from fuselab.report.card import card_lines
from fuselab.store import Run

__all__ = ["build"]

_GRAPH_STAGES = (
    Stage.DYNAMO_GRAPH,
    Stage.JOINT_GRAPH,
    Stage.FORWARD_GRAPH,
    Stage.BACKWARD_GRAPH,
    Stage.INFERENCE_GRAPH,
    Stage.POST_GRAD_GRAPH,
    Stage.OUTPUT_CODE,
)
_KERNEL_STAGES = (
    Stage.TRITON,
    Stage.CPP,
    Stage.TTIR,
    Stage.TTGIR,
    Stage.LLIR,
    Stage.PTX,
    Stage.SASS,
    Stage.AMDGCN,
    Stage.ASSEMBLY,
)
_LARGEST_CHAIN = 256 << 20
_ANCHORS = 6
"""Lines of a kernel's source that are looked for in the output code, to find where it stands there."""

Place = tuple[str, str, str]
"""Variant, workload key, direction."""


def build(runs: Sequence[Run], texts: Texts) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The index and all documents, the index among them under ``panes-index``.

    Args:
        runs: in the order of the page.
        texts: reads and redacts.
    """
    documents = Documents()
    index: dict[str, Any] = {"runs": [], "kernels": [], "breaks": [], "left_out": 0}
    for number, run in enumerate(runs):
        metadata = run.metadata()
        index["runs"].append({"name": texts.clean(metadata.experiment), "id": texts.clean(metadata.id)})
        _Pages(run, number, metadata, run.measurements(), texts, documents, index).add()
    documents.data["panes-index"] = documents.data.pop(documents.add("panes-index-", index))
    return index, documents.data


class _Pages:
    """One run's part of the documents."""

    def __init__(
        self,
        run: Run,
        number: int,
        metadata: RunMetadata,
        measurements: Sequence[Measurement],
        texts: Texts,
        documents: Documents,
        index: dict[str, Any],
    ) -> None:
        self.run, self.number, self.metadata = run, number, metadata
        self.texts, self.documents, self.index = texts, documents, index
        self.labels = {workload.key: workload.label for workload in metadata.plan}
        self.interruptions: dict[tuple[str, str], list[Interruption]] = {}
        for measurement in measurements:
            key = (measurement.variant, measurement.workload.key)
            for warning in measurement.warnings:
                found = interruption(warning)
                if found is not None and found not in self.interruptions.setdefault(key, []):
                    self.interruptions[key].append(found)

    def add(self) -> None:
        """Every place of the run that has a graph or a kernel, in the order in which they were captured."""
        kernels: dict[Place, list[Kernel]] = {}
        for kernel in self.metadata.kernels:
            kernels.setdefault((kernel.variant, kernel.workload, kernel.direction.value), []).append(kernel)
        artifacts: dict[Place, list[Artifact]] = {}
        for artifact in self.metadata.artifacts:
            place = (artifact.variant, artifact.workload, artifact.direction.value)
            artifacts.setdefault(place, []).append(artifact)
        order = list(dict.fromkeys([*kernels, *artifacts]))
        order.sort(key=lambda place: list(self.labels).index(place[1]) if place[1] in self.labels else 1 << 30)
        first: dict[tuple[str, str], int] = {}
        for place in order:
            at = len(self.index["kernels"])
            self._place(place, kernels.get(place, ()), artifacts.get(place, ()))
            if len(self.index["kernels"]) > at:
                first.setdefault(place[:2], at)
        for (variant, workload), found in self.interruptions.items():
            where = self.texts.clean(f"{variant}, {self.labels.get(workload, workload)}")
            for one in found:
                self._break(one, where, first.get((variant, workload)))

    def _break(self, found: Interruption, where: str, kernel: int | None) -> None:
        """List an interruption once a run, with every place where it happened."""
        shown = self._interruption(found)
        for known in self.index["breaks"]:
            if known["run"] == self.number and shown.items() <= known.items():
                known["where"].append(where)
                known["kernel"] = kernel if known["kernel"] is None else known["kernel"]
                return
        self.index["breaks"].append({"run": self.number, "kernel": kernel, "where": [where], **shown})

    def _place(self, place: Place, kernels: Sequence[Kernel], artifacts: Sequence[Artifact]) -> None:
        chain, no_chain = self._chain(place, artifacts)
        graphs = list(chain.graphs) if chain else [ChainGraph(number=0)]
        of_kernel = {kernel.kernel_id: (graph, kernel) for graph in graphs for kernel in graph.kernels}
        nowhere = graphs[0] if graphs else ChainGraph(number=0)
        names: dict[int, str] = {}
        own: dict[str | None, list[Artifact]] = {}
        for artifact in artifacts:
            own.setdefault(artifact.kernel_id, []).append(artifact)
        for kernel in kernels:
            if len(self.index["kernels"]) >= self.texts.limits.kernels:
                self.index["left_out"] += 1
                continue
            graph, chained = of_kernel.get(kernel.kernel_id, (nowhere, None))
            if graph.number not in names:
                names[graph.number] = self._graph(place, graph, own.get(None, ()), no_chain)
            self._list(place, kernel, self._kernel(kernel, chained, own.get(kernel.kernel_id, ())), names[graph.number])
        texts = any(artifact.path and artifact.stage in _GRAPH_STAGES for artifact in artifacts)
        for graph in graphs if texts and not kernels else ():
            self._list(place, None, "", self._graph(place, graph, own.get(None, ()), no_chain), graph.number)

    def _list(self, place: Place, kernel: Kernel | None, document: str, graph: str, number: int = 0) -> None:
        clean = self.texts.clean
        entry: dict[str, Any] = {
            "run": self.number,
            "id": clean(kernel.kernel_id if kernel else "/".join((*place, f"graph {number}"))),
            "name": clean(kernel.name) if kernel else f"graph {number}, without kernels",
            "backend": clean(kernel.backend) if kernel else "graph",
            "variant": clean(place[0]),
            "workload": clean(self.labels.get(place[1], place[1])),
            "direction": place[2],
            "doc": document,
            "graph": graph,
        }
        if kernel is not None:
            figures = ("launches", "registers", "spills", "shared_bytes", "num_warps", "num_stages")
            entry |= {name: getattr(kernel, name) for name in figures if getattr(kernel, name) is not None}
            entry["operations"] = [clean(name) for name in kernel.operations[:40]]
        self.index["kernels"].append(entry)

    def _chain(self, place: Place, artifacts: Iterable[Artifact]) -> tuple[Chain | None, str]:
        path = f"graphs/{'/'.join(place)}/chain.json"
        if not any(artifact.path == path for artifact in artifacts):
            return None, "this run has no chain, so lines are not followed between the panes"
        try:
            text = self.run.read_text(path, _LARGEST_CHAIN)
            return msgspec.json.decode(text, type=Chain), ""
        except (StoreError, msgspec.MsgspecError, UnicodeEncodeError) as error:
            return None, self.texts.clean(f"chain.json cannot be read, so lines are not followed: {error}")

    def _graph(self, place: Place, graph: ChainGraph, artifacts: Iterable[Artifact], no_chain: str) -> str:
        clean = self.texts.clean
        stages: dict[str, Any] = {}
        for artifact in artifacts:
            name = artifact.stage.value
            if artifact.stage not in _GRAPH_STAGES or "text" in stages.get(name, {}):
                continue
            if artifact.path is None:
                stages.setdefault(name, {"absent": clean(artifact.absent)})
            elif _number_of(artifact.path) == max(graph.number, 0):
                stages[name] = self.texts.stage(self.run, artifact.path)
        found = self.interruptions.get(place[:2], [])
        recorded = dict(graph.sources)
        for user in [node.user for node in graph.nodes] + [u for k in graph.kernels for n in k.lines for u in n.user]:
            recorded.setdefault(user, "") if user else None
        document = {
            "stages": stages,
            "no_chain": no_chain,
            "user": [
                {"file": clean(one.file), "whole": one.whole, "lines": [(n, clean(text)) for n, text in one.lines]}
                for one in user_files(recorded, found, self.metadata)
            ],
            "breaks": [self._interruption(one) for one in found],
            "nodes": [
                {
                    "name": clean(node.name),
                    "operator": clean(node.operator),
                    "fx": [clean(fx) for fx in node.fx],
                    "user": clean(node.user),
                    "kernel": clean(node.kernel),
                }
                for node in graph.nodes
            ],
            "launches": {
                clean(kernel.kernel_id): list(kernel.launched_at) for kernel in graph.kernels if kernel.launched_at
            },
        }
        return self.documents.add("panes-g", document)

    def _kernel(self, kernel: Kernel, chained: ChainKernel | None, artifacts: Iterable[Artifact]) -> str:
        clean = self.texts.clean
        stages: dict[str, Any] = {}
        files = []
        for artifact in artifacts:
            if artifact.path is None:
                stages.setdefault(artifact.stage.value, {"absent": clean(artifact.absent)})
            elif artifact.stage in _KERNEL_STAGES:
                stages[artifact.stage.value] = self.texts.stage(self.run, artifact.path)
            else:
                files.append({"path": clean(str(self.run.path / artifact.path)), "bytes": artifact.size_bytes})
        document: dict[str, Any] = {"stages": stages, "files": files, "card": self._card(kernel)}
        if chained is not None:
            document |= {
                "nodes": [clean(name) for name in chained.nodes],
                "launched": list(chained.launched_at),
                "lines": [
                    {
                        "line": line.line,
                        "kind": line.kind,
                        "nodes": [clean(name) for name in line.nodes],
                        "how": line.how,
                        "user": [clean(user) for user in line.user],
                        "became": line.became,
                        "folded": line.folded,
                    }
                    for line in chained.lines
                ],
                "came": chained.came_from,
                "unmapped": {stage: clean(reason) for stage, reason in chained.absent.items()},
            }
        return self.documents.add("panes-k", document)

    def _card(self, kernel: Kernel) -> list[str]:
        try:
            # NaN is no JSON, and a card may have it all the same: what is not a number is left out.
            card = json.loads(
                self.run.read_text(f"kernels/{kernel.kernel_id}/card.json", 1 << 26), parse_constant=lambda _: None
            )
        except (StoreError, ValueError) as error:
            return [self.texts.clean(f"card: absent: {error}")]
        if not isinstance(card, Mapping):
            return ["card: absent: its card is not a card"]
        try:
            return [self.texts.clean(line) for line in card_lines(card)]
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            return [self.texts.clean(f"card: absent: its card cannot be read: {error!r}")]

    def _interruption(self, found: Interruption) -> dict[str, Any]:
        clean = self.texts.clean
        return {"kind": found.kind, "file": clean(found.file), "line": found.line, "reason": clean(found.reason)}


def _number_of(path: str) -> int:
    """Which graph of a capture a file is of: ``output_code.2.py`` is of graph 2."""
    middle = path.rpartition("/")[2].split(".")[1:-1]
    return int(middle[-1]) if middle and middle[-1].isdecimal() else 0

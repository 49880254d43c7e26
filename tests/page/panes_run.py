"""A run made by hand for the tests of the panes: a Triton kernel with every stage and a chain, and what is absent."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import msgspec

from fuselab.capture.chain import Chain, ChainGraph, ChainKernel, ChainLine, ChainNode
from fuselab.records import (
    Artifact,
    Direction,
    Environment,
    Kernel,
    Measurement,
    RunMetadata,
    RunStatus,
    Stage,
    Status,
    Workload,
)
from fuselab.store import Run, create_run

WORKLOAD = Workload(shape=(8, 8), dtype="f32")
VARIANT = "compile"
USER = "/home/ada/model.py"
PLACE = f"{VARIANT}/{WORKLOAD.key}/forward"

SOURCE = """
import triton
@triton.jit
def triton_poi_fused_add_mul_0(in_ptr0, out_ptr0, XBLOCK):
    xoffset = tl.program_id(0) * XBLOCK
    tmp0 = tl.load(in_ptr0 + (xoffset), None)
    tmp1 = tmp0 * tmp0
    tmp2 = tmp1 + 1.0
    tl.store(out_ptr0 + (xoffset), tmp2, None)
"""
LINES = [
    ChainLine(line=5, kind="index", became={"ttir": [3], "ptx": [4]}),
    ChainLine(
        line=6, kind="load", nodes=["mul"], how="dataflow", user=[f"{USER}:10"], became={"ttir": [4], "ptx": [6]}
    ),
    ChainLine(
        line=7, kind="compute", nodes=["mul"], how="written", user=[f"{USER}:10"], became={"ttir": [5], "ptx": [7, 8]}
    ),
    ChainLine(line=8, kind="compute", nodes=["add"], how="written", user=[f"{USER}:11"], folded=[7]),
    ChainLine(
        line=9, kind="store", nodes=["add"], how="written", user=[f"{USER}:11"], became={"ttir": [6], "ptx": [10]}
    ),
]
CAME = {
    "ttir": {3: [5], 4: [6], 5: [7], 6: [9]},
    "ptx": {4: [5], 6: [6], 7: [7], 8: [7], 10: [9]},
}
TTIR = """#loc = loc("k.py":4:0)
module {
  %0 = tt.get_program_id x : i32 loc(#loc1)
  %1 = tt.load %0 : tensor<8xf32> loc(#loc2)
  %2 = arith.mulf %1, %1 : tensor<8xf32> loc(#loc3)
  tt.store %2 : tensor<8xf32> loc(#loc4)
}
#loc1 = loc("k.py":5:0)
"""
PTX = """.version 9.0
.visible .entry triton_poi_fused_add_mul_0()
{
  mov.u32 %r1, %ctaid.x;
  .loc 1 6 0
  ld.global.b32 %r2, [%rd1];
  mul.f32 %f1, %f0, %f0;
  mul.f32 %f3, %f2, %f2;
  .loc 1 9 0
  st.global.b32 [%rd2], %f3;
}
"""
GRAPH = f"""class GraphModule(torch.nn.Module):
    def forward(self, primals_1: "f32[8, 8][8, 1]cuda:0"):
        # File: {USER}:10 in model, code: y = x * x
        mul: "f32[8, 8][8, 1]cuda:0" = torch.ops.aten.mul.Tensor(primals_1, primals_1);  primals_1 = None

        # File: {USER}:11 in model, code: return y + 1
        add: "f32[8, 8][8, 1]cuda:0" = torch.ops.aten.add.Tensor(mul, 1);  mul = None
        return (add,)
"""


def artifact(stage: Stage, path: str | None, kernel: str | None = None, absent: str = "") -> Artifact:
    """One record of a file of the made run."""
    return Artifact(
        stage=stage,
        variant=VARIANT,
        workload=WORKLOAD.key,
        direction=Direction.FORWARD,
        path=path,
        kernel_id=kernel,
        absent=absent,
    )


def made_run(
    root: Path,
    *,
    kernels: int = 1,
    filler: int = 0,
    payload: str = "",
    chained: bool = True,
    stages: bool = True,
    warnings: tuple[str, ...] = (f"graph break at {USER}:12: print",),
    target: Path | None = None,
) -> Run:
    """A run with kernels whose stages are those above.

    Args:
        root: below which it is made.
        kernels: how many.
        filler: bytes put after each stage of each kernel.
        payload: put into every text, name and reason.
        chained: whether it has a chain.
        stages: whether there is anything but the measurement.
        warnings: of its measurement.
        target: a file of the user's whose lines the chain names instead of ``USER``.
    """
    user = str(target) if target else USER
    metadata = RunMetadata(
        id="",
        experiment="made",
        description=payload,
        status=RunStatus.COMPLETE,
        created_at="",
        plan=[WORKLOAD],
        variants=[VARIANT],
        directions=[Direction.FORWARD],
        target=f"{user}:model" if target else None,
        target_sha256=hashlib.sha256(target.read_bytes()).hexdigest() if target else None,
    )
    run = create_run(root, metadata, Environment(device="CPU made", device_type="cpu"))
    with run.lock():
        if stages:
            run.update(**_captured(run, kernels, filler, payload, chained, user))
        run.append(
            [
                Measurement(
                    experiment="made",
                    variant=VARIANT,
                    workload=WORKLOAD,
                    direction=Direction.FORWARD,
                    status=Status.OK,
                    warnings=[warning + payload for warning in warnings],
                )
            ]
        )
    return run


def kernel_name(number: int) -> str:
    """Name of a made kernel."""
    return "triton_poi_fused_add_mul_0" if number == 0 else f"triton_poi_fused_add_mul_{number}"


def kernel_id(number: int = 0, payload: str = "") -> str:
    """Id of a made kernel."""
    return f"{PLACE}/{kernel_name(number)}{payload}"


def _captured(
    run: Run, kernels: int, filler: int, payload: str, chained: bool, user: str
) -> dict[str, list[Kernel] | list[Artifact]]:
    graphs, records, artifacts, parts = f"graphs/{PLACE}", [], [], []
    output = "# output code\nimport torch\n\nkernel = async_compile.triton('k', '''"
    output += SOURCE + "''', device_str='cuda')\n\ndef call(args):\n    kernel.run(buf0)\n" + payload
    for stage, text in (
        ("post_grad_graph", GRAPH.replace(USER, user)),
        ("output_code", output),
        ("dynamo_graph", payload),
    ):
        _write(run, f"{graphs}/{stage}.py", text + payload)
        artifacts.append(artifact(Stage(stage), f"{graphs}/{stage}.py"))
    artifacts.append(artifact(Stage.INFERENCE_GRAPH, None, absent=f"compiled for training{payload}"))
    for number in range(kernels):
        name, folder = kernel_name(number), f"kernels/{PLACE}/{kernel_name(number)}"
        filling = _filling(filler, number)
        for stage, file, text in (
            (Stage.TRITON, "kernel.py", SOURCE),
            (Stage.TTIR, "ttir", TTIR),
            (Stage.PTX, "ptx", PTX),
        ):
            _write(run, f"{folder}/{file}", text + payload + (filling if stage is not Stage.TRITON else ""))
            artifacts.append(artifact(stage, f"{folder}/{file}", kernel_id(number, payload)))
        artifacts.append(artifact(Stage.SASS, None, kernel_id(number, payload), f"no nvdisasm{payload}"))
        _write(run, f"{folder}/card.json", json.dumps({"limiter": {"predicted": f"memory{payload}", "device": "H200"}}))
        records.append(
            Kernel(
                kernel_id=kernel_id(number, payload),
                name=name + payload,
                backend="triton",
                variant=VARIANT,
                workload=WORKLOAD.key,
                direction=Direction.FORWARD,
                file_path=f"{folder}/kernel.py",
                size_bytes=len(SOURCE),
                created_at="",
                operations=[f"aten.mul.Tensor{payload}"],
                registers=21,
            )
        )
        parts.append(
            ChainKernel(
                kernel_id=kernel_id(number, payload),
                name=name,
                backend="triton",
                launched_at=[16],
                nodes=["mul", "add"],
                lines=[
                    msgspec.structs.replace(line, user=[u.replace(USER, user) for u in line.user]) for line in LINES
                ],
                came_from=CAME,
            )
        )
    if chained:
        chain = Chain(
            direction="forward",
            graphs=[
                ChainGraph(
                    number=0,
                    post_grad_graph="post_grad_graph.py",
                    output_code="output_code.py",
                    sources={f"{user}:10": f"y = x * x{payload}", f"{user}:11": f"return y + 1{payload}"},
                    nodes=[
                        ChainNode(
                            name="mul", operator="aten.mul.Tensor", user=f"{user}:10", kernel=kernel_id(0, payload)
                        ),
                        ChainNode(
                            name="add", operator="aten.add.Tensor", user=f"{user}:11", kernel=kernel_id(0, payload)
                        ),
                    ],
                    kernels=parts,
                )
            ],
        )
        _write(run, f"{graphs}/chain.json", msgspec.json.encode(chain).decode())
        artifacts.append(artifact(Stage.PROVENANCE, f"{graphs}/chain.json"))
    return {"kernels": records, "artifacts": artifacts}


def _filling(count: int, number: int) -> str:
    if not count:
        return ""
    lines = [f"  %x{number}_{i} = arith.addf %a{i * 7919 % 1000}, %b{i} : f32" for i in range(min(count // 40, 4000))]
    block = "\n".join(lines) + "\n"
    return (block * (count // len(block) + 1))[:count] + f"\nneedle_{number}\n"


def _write(run: Run, path: str, text: str) -> None:
    file = run.path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")

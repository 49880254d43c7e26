"""Compile the Triton kernels of a recorded output module for an H200, on a machine without a GPU.

Usage: compile_recorded.py OUTPUT_CODE CACHES. Each kernel's source goes to the file that Inductor would give it, below
CACHES/inductor; Triton leaves its stages where TRITON_CACHE_DIR points. The first kernel is compiled twice, with other
``num_warps`` the second time, and the first of the two is recorded as autotuning's choice.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import triton
from torch._inductor.runtime import triton_helpers
from torch._inductor.runtime.runtime_utils import triton_hash_to_path_key
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fuselab.capture.output_code import parse_output_code


def main(recorded: Path, caches: Path) -> None:
    triton_helpers.set_driver_to_gpu = lambda: None  # the generated module asks for a GPU as it is imported
    for index, kernel in enumerate(parse_output_code(recorded.read_text()).kernels):
        path = caches / "inductor" / Path(kernel.source_path).parent.name / Path(kernel.source_path).name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(kernel.source)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        autotuner = getattr(module, kernel.name)
        config = autotuner.configs[0]
        meta = autotuner._create_compile_meta(config)
        constants = {(autotuner.fn.arg_names.index(name),): value for name, value in meta["constants"].items()}
        source = ASTSource(autotuner.fn, meta["signature"], constants, meta["configs"][0])
        compiled = [
            triton.compile(
                source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps, "num_stages": config.num_stages}
            )
            for warps in ([2, 8] if index == 0 else [config.num_warps])
        ]
        if index == 0:
            choice = {"num_warps": 2, "triton_cache_hash": triton_hash_to_path_key(compiled[0].hash)}
            path.with_name("abc.best_config").write_text(json.dumps(choice))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

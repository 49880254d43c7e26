"""Runs as one file that is committed under benchmarks/results/: every sample, and the hardware that it was taken on.

    python benchmarks/record.py runs/silu/latest runs/rms_norm/latest --out benchmarks/results/h200-quick.json

What is left out: the lists of artifacts and kernels' files, the run's path, and directories of the machine, which say
nothing about a figure. What is left in is as ``fuselab show RUN --json`` has it.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from fuselab import load_run
from fuselab.report.document import run_document

DIRECTORY = re.compile(r"(?<![\w.])(?:/[\w.@+-]+)+/")
"""An absolute path down to its last name."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="+", help="paths of runs")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    document = run_document([load_run(path) for path in arguments.run])
    for run in document["runs"]:
        del run["path"]
        del run["metadata"]["artifacts"]
    arguments.out.write_text(json.dumps(without_directories(document), indent=1) + "\n")


def without_directories(value: Any) -> Any:
    """Text without the directories of absolute paths, all the way down."""
    if isinstance(value, dict):
        return {key: without_directories(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_directories(inner) for inner in value]
    return DIRECTORY.sub("", value) if isinstance(value, str) else value


if __name__ == "__main__":
    main()

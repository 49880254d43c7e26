"""Judges all solutions, all starter files and all wrong answers in one process; their verdicts go to a file.

``test_exercises.py`` starts it: TRITON_INTERPRET has to be set before triton is imported, and a process a check would
cost minutes.
"""

import os
import sys
import tempfile
from pathlib import Path

import msgspec

DEVICE = sys.argv[2] if len(sys.argv) > 2 else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"

import torch  # noqa: E402
from wrong_answers import WRONG  # noqa: E402

from fuselab.course.exercises import EXERCISES  # noqa: E402
from fuselab.course.files import material  # noqa: E402
from fuselab.course.judge import judge  # noqa: E402
from fuselab.course.sources import Source  # noqa: E402


def main(answer):
    torch.set_num_threads(1)
    verdicts = {}
    folder = Path(tempfile.mkdtemp())

    def judged(key, exercise, text, where):
        # Each from a file of its own: triton and linecache remember a file's lines.
        place = folder / str(len(verdicts))
        place.mkdir()
        verdicts[key] = judge(exercise, Source(text=text, entry=exercise.name, where=where), place, DEVICE)

    only = os.environ.get("ONLY", "").split()
    for name, exercise in EXERCISES.items():
        if only and name not in only:
            continue
        solution = (material() / "solutions" / f"{name}.py").read_text()
        judged(f"solution/{name}", exercise, solution, f"{name}.py")
        judged(f"starter/{name}", exercise, (material() / "exercises" / f"{name}.py").read_text(), f"{name}.py")
        # Natively every answer is compiled for every input: two of each are a minute.
        for number, (right, wrong, _) in enumerate(WRONG[name][: 2 if DEVICE == "cuda" else None]):
            assert right in solution, f"{name}: {right!r} is not in the solution"
            judged(f"wrong/{name}/{number}", exercise, solution.replace(right, wrong), f"{name}.py")
    Path(answer).write_bytes(msgspec.json.encode(verdicts))


main(sys.argv[1])

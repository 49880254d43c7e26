"""A learner's function in a process of its own: gathered from its cells, run, stopped, told what went wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fuselab.course import check, hint
from fuselab.course.exercises import EXERCISES
from fuselab.course.run import _tail, last_place
from fuselab.course.sources import Piece, Source, source_of
from fuselab.course.verdict import Finding, Outcome, Resemblance, Score, Verdict
from fuselab.errors import FuselabError, UnknownNameError, UsageError

SWIGLU = EXERCISES["swiglu_forward"]

TOGETHER = """
import json, os, sys, tempfile
from pathlib import Path
if sys.argv[1] == "without":
    class Hidden:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "triton":
                raise ModuleNotFoundError("No module named 'triton'", name="triton")
    import importlib.util
    found = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *rest: None if name == "triton" else found(name, *rest)
    sys.meta_path.insert(0, Hidden())
os.environ["TRITON_INTERPRET"] = "1"
import msgspec
from fuselab.course.exercises import EXERCISES
from fuselab.course.judge import judge
from fuselab.course.sources import Source
verdicts = []
for number, (name, text) in enumerate(json.loads(sys.stdin.read())):
    folder = Path(tempfile.mkdtemp())
    source = msgspec.json.decode(text, type=Source)
    verdicts.append(judge(EXERCISES[name], source, folder, "cpu"))
sys.stdout.buffer.write(msgspec.json.encode(verdicts))
"""


def judged_together(answers, triton="with"):
    """Verdicts of several sources, by name, from one process."""
    import msgspec

    asked = [(name, msgspec.json.encode(source).decode()) for name, source in answers]
    finished = subprocess.run(
        [sys.executable, "-c", TOGETHER, triton],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    return msgspec.json.decode(finished.stdout, type=list[Verdict])


@pytest.fixture(scope="module")
def cells():
    pytest.importorskip("triton")
    import answers_in_cells

    return answers_in_cells


NAMES = [
    *("launches", "kernel", "uses_everything", "in_torch", "raises", "writes_to_its_input"),
    *("another_shape", "another_dtype", "nothing", "two", "does_not_compile", "autotuned"),
]


@pytest.fixture(scope="module")
def verdicts(cells):
    sources = [("swiglu_forward", source_of(SWIGLU, getattr(cells, name))) for name in NAMES]
    texts = [
        ("swiglu_forward", "def swiglu_forward(a, b)\n    return 1\n"),
        ("swiglu_forward", "def something_else(a, b, c):\n    return 1\n"),
        ("swiglu_backward", "import torch\n\n\ndef swiglu_backward(dy, a, b):\n    return [].pop()\n"),
        ("swiglu_forward", "no_such_name\n"),
    ]
    sources += [(name, source_of(EXERCISES[name], text)) for name, text in texts]
    keys = [*NAMES, "syntax", "arguments", "deep", "top"]
    return dict(zip(keys, judged_together(sources), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["launches", "kernel", "uses_everything"])
def test_a_function_takes_along_what_it_uses(verdicts, name):
    """Imports, constants, other functions and kernels; a bare kernel is launched by the exercise."""
    assert verdicts[name].outcome is Outcome.RIGHT, str(verdicts[name])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "outcome", "says"),
    [
        ("in_torch", Outcome.NO_KERNEL, "torch computed them"),
        ("raises", Outcome.RAISED, "AttributeError: 'Tensor' object has no attribute 'nope'"),
        ("writes_to_its_input", Outcome.WRONG, "this input was written to"),
        ("another_shape", Outcome.WRONG, "its shape is [1, 100], not [3, 100]"),
        ("another_dtype", Outcome.WRONG, "its dtype is float64, not float32"),
        ("nothing", Outcome.WRONG, "it returned nothing, not a tensor; asked for is swiglu_forward(a, b) -> y"),
        ("two", Outcome.WRONG, "it returned 2 results"),
        ("does_not_compile", Outcome.RAISED, "no_such_name"),
        ("autotuned", Outcome.RAISED, "autotuning times its configurations, which takes a GPU"),
        ("syntax", Outcome.RAISED, "SyntaxError: expected ':'"),
        ("arguments", Outcome.RAISED, "missing 1 required positional argument: 'c'"),
        ("deep", Outcome.RAISED, "IndexError: pop from empty list"),
        ("top", Outcome.RAISED, "NameError: name 'no_such_name' is not defined"),
    ],
)
def test_what_goes_wrong_is_said(verdicts, name, outcome, says):
    verdict = verdicts[name]
    assert verdict.outcome is outcome
    assert says in verdict.findings[0].says


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "where", "line", "code"),
    [
        ("raises", "raises", 2, "return a.nope(b)"),
        ("does_not_compile", "does_not_compile", 3, "tl.store(y_ptr, no_such_name)  # noqa: F821"),
        ("syntax", "your code", 1, "def swiglu_forward(a, b)"),
        ("deep", "your code", 5, "return [].pop()"),
    ],
)
def test_the_line_is_the_learners(verdicts, name, where, line, code):
    """Counted within the function where it is from a cell, not within the file that was gathered from it."""
    verdict = verdicts[name]
    assert (verdict.where, verdict.line, verdict.code) == (where, line, code)


@pytest.mark.slow
def test_without_triton(cells):
    """macOS, Windows: a kernel is told where it runs; numbers and exercises without kernels are checked."""
    block = "def block_choice(N):\n    return min(1 << (N - 1).bit_length(), 4096), 1\n"
    kernel, numbers, blocks = judged_together(
        [
            ("swiglu_forward", source_of(SWIGLU, cells.launches)),
            ("swiglu_forward", source_of(SWIGLU, cells.in_torch)),
            ("block_choice", source_of(EXERCISES["block_choice"], block)),
        ],
        triton="without",
    )
    assert kernel.outcome is Outcome.UNAVAILABLE
    assert "runs on Linux" in kernel.findings[0].says
    assert not kernel.ok
    assert "hint(" not in str(kernel)
    assert numbers.ok
    assert numbers.note == "checked as torch code: triton is not installed here"
    assert blocks.outcome is Outcome.WRONG


@pytest.mark.slow
def test_one_that_never_ends_is_stopped_on_its_line(cells):
    verdict = check("swiglu_forward", cells.never_ends, device="cpu", deadline_s=1)
    assert verdict.outcome is Outcome.TIMED_OUT
    assert verdict.findings[0].says.startswith("no end within 1 s")
    assert (verdict.where, verdict.line) in {("never_ends", 3), ("never_ends", 4)}
    assert not verdict


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "says"), [("leaves", "exit code 3"), ("far_outside", "SIGSEGV: reading or writing far outside")]
)
def test_one_that_dies_takes_its_process_alone(cells, name, says):
    verdict = check("swiglu_forward", getattr(cells, name), device="cpu")
    assert verdict.outcome is Outcome.CRASHED
    assert says in verdict.findings[0].says
    assert name == "leaves" or (verdict.where, verdict.code) == ("far_outside", "return ctypes.string_at(0)")


@pytest.mark.slow
def test_a_cell_of_a_notebook(tmp_path, monkeypatch):
    """As IPython runs it: the source is in linecache alone, ``__main__`` is the notebook."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    shell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell.instance()
    from fuselab.course.files import material

    solution = (material() / "solutions" / "vector_add.py").read_text()
    imports, _, rest = solution.partition("@triton.jit")
    for cell in (imports, "@triton.jit" + rest, "from fuselab.course import check"):
        assert shell.run_cell(cell).success
    answer = shell.run_cell("check('vector_add', vector_add, device='cpu')").result
    assert answer.outcome is Outcome.RIGHT, str(answer)


@pytest.mark.slow
def test_what_it_prints_is_shown(cells):
    verdict = check("swiglu_forward", cells.prints_and_raises, device="cpu")
    assert verdict.outcome is Outcome.RAISED
    assert verdict.printed == "<b> torch.Size([3, 100])"
    assert "    <b> torch.Size([3, 100])" in str(verdict)
    assert "&lt;b&gt; torch" in verdict._repr_html_()


def test_of_much_that_is_printed_the_end_is_shown():
    text = "".join(f"line {i}\n" for i in range(1000))
    assert _tail(text).startswith("...\nline ")
    assert _tail(text).endswith("line 999")
    assert len(_tail("x" * 5000)) == 2004
    assert _tail(" short\n") == "short"


@pytest.mark.gpu
def test_cuda_where_there_is_none_is_refused(cells):
    if not pytest.importorskip("torch").cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    assert check("swiglu_forward", cells.launches, device="cuda").ok


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (3, "an int, not a function"),
        ("no/such/file.py", "cannot be read"),
        (None, "no answer to swiglu_forward was given"),
        (print, "a builtin_function_or_method, not a function"),
    ],
)
def test_what_is_no_answer(answer, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        check("swiglu_forward", answer)


def test_an_answer_that_another_process_lacks(cells):
    with pytest.raises(UsageError, match="uses_a_tensor uses TABLE, a Tensor from outside"):
        source_of(SWIGLU, cells.uses_a_tensor)

    outside = 3

    def closure(a, b):
        return outside

    with pytest.raises(UsageError, match=r"uses its variables \(outside\)"):
        source_of(SWIGLU, closure)
    exec_only = {}
    exec("def made(a, b):\n    return a", exec_only)
    with pytest.raises(UsageError, match="the source of made cannot be found"):
        source_of(SWIGLU, exec_only["made"])


def test_unknown_names_and_devices(cells):
    with pytest.raises(UnknownNameError, match="did you mean 'swiglu_forward'"):
        check("swiglu_foward", cells.launches)
    with pytest.raises(UnknownNameError, match="unknown device 'tpu'"):
        check("swiglu_forward", cells.launches, device="tpu")
    with pytest.raises(FuselabError, match="deadline of 0 s"):
        check("swiglu_forward", cells.launches, deadline_s=0)


def test_a_starter_file_needs_no_process(tmp_path, monkeypatch):
    monkeypatch.setattr("fuselab.probe.run", lambda *a, **k: pytest.fail("started a process"))
    verdict = check("row_sum", "def row_sum(x):\n    return ...\n")
    assert verdict.outcome is Outcome.UNFINISHED
    assert (verdict.line, verdict.code) == (2, "return ...")


def test_three_hints_then_the_third_again():
    told = [hint("row_sum") for _ in range(4)]
    assert [h.number for h in told] == [1, 2, 3, 3]
    assert hint("row_sum", again=True).number == 3
    assert "solutions/row_sum.py" in str(told[3])
    assert len({h.text for h in told}) == 3


def test_the_line_of_a_trace():
    trace = 'Fatal Python error\n  File "/x/other.py", line 9 in f\n  File "/x/answer.py", line 3 in g\n'
    source = Source(text="\n\nboom()\n", entry="g", pieces=(Piece(name="g", first=2, last=3),))
    assert last_place(trace, Path("/x/answer.py"), source) == (2, "boom()", "g")
    assert last_place("", Path("/x/answer.py"), source) == (None, "", "")


HOSTILE = "</script><img src=x onerror=alert(1)>"


def test_what_is_shown_is_escaped():
    verdict = Verdict(
        exercise="row_sum",
        title=HOSTILE,
        outcome=Outcome.WRONG,
        cases=3,
        right=1,
        findings=(Finding(case=HOSTILE, output=HOSTILE, says=HOSTILE),),
        mistakes=(Resemblance(name="x", title=HOSTILE, says=HOSTILE, outputs=(HOSTILE,)),),
        line=1,
        code=HOSTILE,
        where=HOSTILE,
        note=HOSTILE,
        printed=HOSTILE,
    )
    for shown in (verdict, Score(verdicts=(verdict,))):
        page = shown._repr_html_()
        assert "<img" not in page
        assert "&lt;img" in page
    assert "wrong on 2 of 3 inputs" in str(verdict)
    assert repr(verdict) == str(verdict)


def test_a_score_says_why():
    right = Verdict(exercise="a", title="A", outcome=Outcome.RIGHT, cases=2, right=2)
    unfinished = Verdict(exercise="b", title="B", outcome=Outcome.UNFINISHED, line=4)
    score = Score(verdicts=(right, unfinished))
    assert score.solved == 1
    assert str(score).splitlines()[0] == "1 of 2 exercises solved"
    assert "line 4" in str(score).splitlines()[2]

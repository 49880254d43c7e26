"""What is used of triton beyond its documentation: still there, and its absence is no crash."""

from types import SimpleNamespace

import pytest

from fuselab.course.internals import count_launches, failed_line


def test_launches_are_counted():
    class Kernel:
        fn = None

        def run(self, *arguments, grid, warmup):
            return arguments

        def __getitem__(self, grid):
            return lambda *arguments: self.run(*arguments, grid=grid, warmup=False)

    counted = []
    kernel = Kernel()
    count_launches({"kernel": kernel, "other": 3}, lambda: counted.append(1))
    assert kernel[(1,)]("x") == ("x",)
    assert counted == [1]


def test_tritons_kernels_can_be_watched():
    triton = pytest.importorskip("triton")

    @triton.jit
    def kernel(x_ptr):
        pass

    assert callable(kernel.run)
    assert kernel.fn.__name__ == "kernel"
    assert hasattr(kernel, "__getitem__")


def test_the_line_of_an_error_of_the_compiler():
    """The error carries the kernel's source and the node that it stopped at."""
    compilation = pytest.importorskip("triton.compiler.errors")
    error = compilation.CompilationError(
        "def f(x):\n    y = nope\n", SimpleNamespace(lineno=2, col_offset=4), "no nope"
    )
    assert failed_line(error) == "y = nope"
    assert failed_line(ValueError("x")) == ""

"""These tests run in a process that starts with TRITON_INTERPRET=1, because triton reads it when it is imported.

``tests/ops/test_ops_interpreted.py`` starts that process. In any other the files here are not collected.
"""

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]


def pytest_configure(config):
    """Numpy warns of the NaN and Inf that a GPU computes without a word."""
    config.addinivalue_line("filterwarnings", "ignore::RuntimeWarning:triton.runtime.interpreter")
    # Triton 3.6 turns arrays of one element into loop bounds, which numpy deprecated (and 2.4 refuses).
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning:triton.runtime.interpreter")

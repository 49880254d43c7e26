"""Reads found in sources: names, moments, fields, defaults."""

from __future__ import annotations

import pytest

from fuselab.env_vars.scan import ReadTime, scan_source
from fuselab.env_vars.values import UNREADABLE, read_as


def one(text, file="torch/x.py"):
    reads = scan_source("import os\n" + text, file)
    assert len(reads) == 1, reads
    return reads[0]


@pytest.mark.parametrize(
    ("text", "name", "time"),
    [
        ("a = os.environ.get('TORCH_A', '1')", "TORCH_A", ReadTime.IMPORT),
        ("a = os.environ['TORCH_A']", "TORCH_A", ReadTime.IMPORT),
        ("if 'TORCH_A' in os.environ: pass", "TORCH_A", ReadTime.IMPORT),
        ("NAME = 'TORCH_A'\na = os.getenv(NAME)", "TORCH_A", ReadTime.IMPORT),
        ("def f(x=os.getenv('TORCH_A')): pass", "TORCH_A", ReadTime.IMPORT),
        ("class C:\n    a = os.getenv('TORCH_A')", "TORCH_A", ReadTime.IMPORT),
        ("try:\n    a = os.getenv('TORCH_A')\nexcept OSError: pass", "TORCH_A", ReadTime.IMPORT),
        ("try: pass\nexcept OSError:\n    a = os.getenv('TORCH_A')", "TORCH_A", ReadTime.IMPORT),
        ("with x:\n    if y:\n        a = os.getenv('TORCH_A')", "TORCH_A", ReadTime.IMPORT),
        ("def f():\n    return os.getenv('TORCH_A')", "TORCH_A", ReadTime.CALL),
        ("def f():\n    return os.getenv('TORCH_A')\na = f()", "TORCH_A", ReadTime.IMPORT),
        ("@functools.lru_cache(None)\ndef f():\n    return os.getenv('TORCH_A')", "TORCH_A", ReadTime.ONCE),
        ("@cache\ndef f():\n    def g():\n        return os.getenv('TORCH_A')", "TORCH_A", ReadTime.ONCE),
        ("a = get_tristate_env('TORCH_A')", "TORCH_A", ReadTime.IMPORT),
        ("CC = os.environ.get('CC')", "CC", ReadTime.IMPORT),
    ],
)
def test_a_read_is_found_with_its_moment(text, name, time):
    read = one(text)
    assert (read.name, read.time) == (name, time)


@pytest.mark.parametrize(
    "text",
    [
        "os.environ['TORCH_A'] = '1'",
        "del os.environ['TORCH_A']",
        "a = 'TORCH_A'",
        "# os.getenv('TORCH_A')",
        "def f():\n    '''os.getenv('TORCH_A')'''",
        "a = os.getenv('lower')",
        "this is no Python",
    ],
)
def test_what_only_names_or_writes_a_variable_is_no_read(text):
    assert scan_source(text, "torch/x.py") == []


CONFIG = "\ninstall_config_module(sys.modules[__name__])"


@pytest.mark.parametrize(
    ("text", "field", "default"),
    [
        ("fast = os.environ.get('TORCH_A', '0') == '1'", "torch.c.fast", "False"),
        ("class triton:\n    fast: int = int(os.getenv('TORCH_A', 3))", "torch.c.triton.fast", "3"),
        ("fast: bool = Config(default=True, env_name_force='TORCH_A')", "torch.c.fast", "True"),
        ("fast = Config(env_name_default=['TORCH_A'], default='x')", "torch.c.fast", "'x'"),
        ("def d():\n    return os.getenv('TORCH_A')\nclass triton:\n    fast = d()", "torch.c.triton.fast", None),
        ("fast = os.getenv('TORCH_A', '1' if not is_fbcode() else '0') == '1'", "torch.c.fast", "True"),
        ("fast = os.path.join(os.getenv('TORCH_A', '/'), 'x')", "torch.c.fast", None),
    ],
)
def test_the_field_behind_a_read(text, field, default):
    read = one(text + CONFIG, "torch/c.py")
    assert (read.field, read.default) == (field, default)


def test_a_module_that_is_no_configuration_has_no_fields():
    assert one("fast = os.environ.get('TORCH_A', '0') == '1'").field is None


def test_knobs_of_triton():
    text = "class cache_knobs(base_knobs):\n    dir = env_str('TRITON_A', 'x')\ncache = cache_knobs()\n"
    read = one(text, "triton/knobs.py")
    assert (read.field, read.default, read.time) == ("triton.knobs.cache.dir", "'x'", ReadTime.CALL)
    kept = one(text.replace("'x')", "'x').get()"), "triton/knobs.py")
    assert kept.time is ReadTime.IMPORT
    tool = one("class n(base_knobs):\n    p = env_nvidia_tool('ptxas-blackwell')\nnvidia = n()\n", "triton/knobs.py")
    assert (tool.name, tool.field) == ("TRITON_PTXAS_BLACKWELL_PATH", "triton.knobs.nvidia.p")


@pytest.mark.parametrize(
    ("rule", "value", "expected"),
    [
        ("os.environ.get('A', '0') == '1'", "1", True),
        ("os.environ.get('A', '0') == '1'", "true", False),
        ("bool(os.environ.get('A', False))", "0", True),
        ("int(os.environ.get('A', '3')) + 1", "4", 5),
        ("int(os.environ.get('A', '3'))", "four", UNREADABLE),
        ("Config(default=False, env_name_force='A')", "1", True),
        ("Config(default=False, env_name_default=['B', 'A'])", "x", "x"),
        ("get_tristate_env('A', default=None)", "0", False),
        ("os.environ.get('A', 'x').upper()", "abc", "ABC"),
        ("__import__('os').system('true')", "1", UNREADABLE),
        ("os.environ.__class__", "1", UNREADABLE),
        ("(lambda: 1)()", "1", UNREADABLE),
    ],
)
def test_what_a_text_becomes(rule, value, expected):
    assert read_as(rule, {"A": value}) == expected

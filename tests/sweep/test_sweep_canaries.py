"""Twenty planted secrets in environment, command line, addresses and tracebacks: none in a file that a sweep makes."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]

CANARIES = {
    "hugging face": "hf_" + "CaNaRyAbCdEfGhIjKl0123456789",
    "github": "ghp_" + "canary0123456789ABCDEFGHIJ",
    "gitlab": "glpat-" + "canary-9876543210",
    "openai": "sk-" + "proj-canary0123456789abcdef",
    "aws": "AKIA" + "CANARY0123456789",
    "slack": "xoxb-" + "123456789012-canaryabcdef",
    "google": "AIza" + "SyCanary0123456789abcdefghijklmnopq",
    "npm": "npm_" + "canary0123456789abcdefghijklmnopqrst",
    "jwt": "eyJ" + "hbGciOiJIUzI1NiJ9.eyJzdWIiOiJjYW5hcnkifQ.c2lnbmF0dXJl",
    "bearer": "canary.bearer-0123456789",
    "url password": "canary-url-swordfish",
    "query": "canary-query-value",
    "assigned": "canary-assigned-value",
    "flag": "canary-flag-value",
    "key block": "MIIEcanaryBlock0123456789",
    "HF_TOKEN": "canary-environment-token-1",
    "DB_PASSWORD": "canary-environment-password-2",
    "WANDB_API_KEY": "canary-environment-key-3",
    "AWS_SECRET_ACCESS_KEY": "canary-environment-secret-4",
    "GIT_AUTH": "canary-environment-auth-5",
}

PLAN = """
name = "canaries"
device = "cpu"
variants = ["eager", "compile"]
directions = "forward"
[[experiment]]
file = "own.py:leaks"
arguments = ["x=f32[{n},8]"]
axes.n = [2]
"""


def own_file():
    """A function that raises with every canary in its usual surroundings."""
    c = CANARIES
    text = " | ".join(
        [
            f"https://user:{c['url password']}@host.example/?x=1&token={c['query']}&y=2",
            f"Authorization: Bearer {c['bearer']}",
            f"login(password='{c['assigned']}')",
            f"tool --auth-token {c['flag']} --verbose",
            f"-----BEGIN RSA PRIVATE KEY-----{c['key block']}-----END RSA PRIVATE KEY-----",
            *(
                c[name]
                for name in ("hugging face", "github", "gitlab", "openai", "aws", "slack", "google", "npm", "jwt")
            ),
            *(f"os.environ said {value}" for name, value in c.items() if name.isupper() or "_" in name),
        ]
    )
    return f"def leaks(x):\n    raise ValueError({text!r})\n"


def test_fault_28_twenty_canaries_reach_no_file_of_a_sweep(place):
    assert len(CANARIES) == 20
    (place.directory / "own.py").write_text(own_file())
    place.plan(PLAN)
    variables = {name: value for name, value in CANARIES.items() if name.isupper()}
    # The real engine: fuselab's own processes carry these cells out.
    real = {**variables, "DASK_DISTRIBUTED__WORKER__PRELOAD": "[]"}
    done = place.fuselab("sweep", "plan.toml", **real)
    assert done.returncode == 1, done.stderr
    assert "2 cells failed" in done.stderr
    for arguments in (
        ["sweep-report", "latest"],
        ["sweep-export", "latest", "--to", "cells.jsonl"],
        ["sweep-export", "latest", "--to", "cells.parquet"],
    ):
        assert place.fuselab(*arguments, **variables).returncode == 0
    shown = place.fuselab("show", "canaries", "--json", **variables)
    files = [p for p in place.directory.rglob("*") if p.is_file() and p.name != "own.py" and "dask" not in p.parts]
    assert {"sweep.json", "measurements.jsonl", "sweep.html", "cells.parquet"} <= {p.name for p in files}
    texts = {str(p): p.read_bytes() for p in files} | {"show": shown.stdout.encode(), "stderr": done.stderr.encode()}
    found = [(name, where) for name, value in CANARIES.items() for where, t in texts.items() if value.encode() in t]
    assert found == []
    assert b"ValueError" in texts["show"], "the reason itself is kept"


def test_without_dask_the_command_says_what_to_install(place):
    place.plan(PLAN)
    code = (
        "import sys, importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name in ('distributed', 'pyarrow') else find(name, *a)\n"
        "from fuselab.cli import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    (place.directory / "own.py").write_text(own_file())
    done = subprocess.run(
        [sys.executable, "-c", code, "sweep", "plan.toml"],
        cwd=place.directory, env=place.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "pip install 'fuselab[sweep]'" in done.stderr
    assert "distributed" in done.stderr

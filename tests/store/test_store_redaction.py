"""Secrets reach no file of a run; the everyday words of our field stay as they are."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from store_factory import capture_into, cell, workload

from fuselab.records import Correctness, Environment, RunMetadata, RunStatus, Status, TensorCheck
from fuselab.store import create_run, scrub
from fuselab.store.redaction import names_secret, scrub_code, scrub_command

# Made up, and put together here so that no scanner of repositories takes them for real ones.
CANARIES = {
    "hugging face": "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567",
    "github": "ghp_" + "0123456789abcdefghijABCDEFGHIJ012345",
    "github server": "ghs_" + "canary0000000000000000000000000000001",
    "github fine": "github_pat_" + "11ABCDEFG0abcdefghijkl_canary",
    "gitlab": "glpat-" + "canary-1234567890",
    "openai": "sk-" + "proj-canary0123456789abcdef",
    "anthropic": "sk-" + "ant-api03-canary-0123456789",
    "aws": "AKIA" + "CANARY0123456789",
    "aws secret": "wJalrXUtnFEMIcanaryK7MDENGbPxRfiCYEXAMPLEKEY",
    "slack": "xoxb-" + "123456789012-canaryabcdef",
    "google": "AIza" + "SyCanary0123456789abcdefghijklmnopq",
    "npm": "npm_" + "canary0123456789abcdefghijklmnopqrst",
    "pypi": "pypi-" + "AgEIcHlwaS5vcmcCJGNhbmFyeQ",
    "jwt": "eyJ" + "hbGciOiJIUzI1NiJ9.eyJzdWIiOiJjYW5hcnkifQ.c2lnbmF0dXJl",
    "bearer": "canary.bearer-0123456789",
    "url password": "canary-url-swordfish",
    "flag": "canary-flag-value",
    "assigned": "canary-assigned-value",
    "query": "canary-query-value",
    "variable": "canary value of a variable: with spaces",
    "key block": "MIIEcanaryBlock0123456789",
    "wandb": "0123456789abcdef0123456789abcdefcanary00",
}


def _planted() -> str:
    """A traceback in which every canary stands in its usual surroundings."""
    c = CANARIES
    return "\n".join(
        [
            f"OSError: 401 for https://user:{c['url password']}@host.example/path?x=1&token={c['query']}&y=2",
            f"headers: {{'Authorization': 'Bearer {c['bearer']}', 'x': '1'}}",
            f"export AWS_SECRET_ACCESS_KEY={c['aws secret']}",
            f"os.environ['WANDB_API_KEY'] = '{c['wandb']}'",
            f"login(password='{c['assigned']}')",
            f"$ tool --auth-token {c['flag']} --verbose",
            f"the variable holds {c['variable']}!",
            f"-----BEGIN RSA PRIVATE KEY-----\n{c['key block']}\n-----END RSA PRIVATE KEY-----",
            *(c[name] for name in CANARIES if name in ISSUED),
        ]
    )


ISSUED = {
    *("hugging face", "github", "github server", "github fine", "gitlab", "openai", "anthropic", "aws", "slack"),
    *("google", "npm", "pypi", "jwt"),
}


def test_twenty_canaries_reach_no_file_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(CANARIES) >= 20
    monkeypatch.setenv("MY_SERVICE_TOKEN", CANARIES["variable"])
    text = _planted()
    assert all(canary in text for canary in CANARIES.values())
    metadata = RunMetadata(
        id="", experiment="rms_norm", description=text, status=RunStatus.RUNNING, created_at="",
        command=["fuselab", "run", "--password", CANARIES["flag"], text], target=f"f.py:{text}",
        plan=[workload()], variants=["eager"],
    )  # fmt: skip
    environment = Environment(
        device="CPU", device_type="cpu", variables={"HF_TOKEN": "short", "URL": text}, os=text, versions={"x": text}
    )
    run = create_run(tmp_path, metadata, environment)
    tensors = [TensorCheck(name="output", correct=False, reason=text)]
    run.append(
        [
            cell(
                status=Status.ERROR, reason=text, warnings=[text], labels=[text],
                correctness=Correctness(correct=False, reason=text, tensors=tensors),
            )
        ]
    )  # fmt: skip
    staging = run.staging("compile")
    capture = capture_into(staging, text=f"# {text.replace(chr(10), chr(10) + '# ')}\n")
    # Captured code keeps its words; what only its surroundings give away is not expected of it.
    clear = {"assigned", "flag", "query", "aws secret", "wandb"}
    for path in staging.rglob("*.*"):
        body = path.read_text()
        for name in clear:
            body = body.replace(CANARIES[name], "")
        path.write_text(body)
    run.adopt(staging, *capture)
    run.write_plot("x.svg", f"<svg>{CANARIES['github']}</svg>")
    run.update(error=text)
    run.finish(RunStatus.FAILED, {"said": text}, error=text)
    files = [path for path in run.path.rglob("*") if path.is_file()]
    assert len(files) >= 7
    for path in files:
        content = path.read_bytes().decode("utf-8", "replace")
        for name, canary in CANARIES.items():
            assert canary not in content, f"{name} in {path.name}"
            assert msgspec.json.encode(canary).decode()[1:-1] not in content, f"{name} in {path.name}"
    assert "short" not in (run.path / "environment.json").read_text()
    assert run.measurements()[0].status is Status.ERROR


@pytest.mark.parametrize(
    "text",
    [
        "--arg tokens=i64[8,512]<50257",
        "--arg key=bf16[8,64]:requires_grad",
        "--arg token=f32[8]",
        "num_tokens=4096 pad_token_id=0 max_tokens: 512",
        "KeyError: 'weight'",
        "triton_per_fused_rms_norm_key_query_0",
        "hf_transformers_model sk-learn task-specific-name",
        "https://pytorch.org/docs/stable/index.html?highlight=key",
        "key, query, value = qkv.unbind(2)",
        "bearer of bad news",
        "/home/me/project/model.py:12",
        "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "password is required",
        "ssh://git@host/x",
    ],
)
def test_everyday_words_stay(text: str) -> None:
    assert scrub(text, {}) == text
    assert scrub_code(text, {}) == text


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("--token s3cr3t", "--token <redacted>"),
        ("--hub-token=s3cr3t x", "--hub-token=<redacted> x"),
        ("API_KEY=abcdef", "API_KEY=<redacted>"),
        ("PGPASSWORD='s3cr3t' psql", "PGPASSWORD='<redacted>' psql"),
        ('{"api_key": "abcdef"}', '{"api_key": "<redacted>"}'),
        ("password: hunter2", "password: <redacted>"),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic <redacted>"),
        ("Cookie: session=abc; id=3", "Cookie: <redacted>"),
        ("s3://me:pw@bucket/x", "s3://<redacted>@bucket/x"),
        ("https://h/x?X-Amz-Signature=abc&y=1", "https://h/x?X-Amz-Signature=<redacted>&y=1"),
    ],
)
def test_what_gives_a_secret_away(text: str, masked: str) -> None:
    assert scrub(text, {}) == masked
    assert scrub(masked, {}) == masked


def test_values_of_secret_variables_are_masked_wherever_they_stand() -> None:
    variables = {"MY_KEY": "correct horse", "MY_KEY_2": "correct horse battery", "HOME": "/root/home", "A_KEY": "short"}
    assert scrub("says correct horse battery; short /root/home", variables) == "says <redacted>; short /root/home"


def test_a_secret_in_a_word_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI_SECRET", "swordfish")
    words = ["fuselab", "run", "f.py:g", "--token", "abc", "--seed", "7", "--password", "--json", "swordfish"]
    expected = [
        "fuselab",
        "run",
        "f.py:g",
        "--token",
        "<redacted>",
        "--seed",
        "7",
        "--password",
        "--json",
        "<redacted>",
    ]
    assert scrub_command(words) == expected
    assert scrub_command([]) == []


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("HF_TOKEN", True), ("AWS_SECRET_ACCESS_KEY", True), ("MYSQL_PWD", True), ("PGPASSWORD", True),
        ("PWD", False), ("TOKENIZERS_PARALLELISM", False), ("KEYBOARD", False), ("TRITON_CACHE_DIR", False),
    ],
)  # fmt: skip
def test_which_variables_are_secret(name: str, secret: bool) -> None:
    assert names_secret(name) is secret

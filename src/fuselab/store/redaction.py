"""What must reach no file of a run: tokens, passwords, credentials in addresses and command lines.

``scrub`` is for words (a reason, a traceback, a command line), where names such as ``password=`` count too;
``scrub_code`` for captured code, where only what is unmistakably a secret is masked, so that generated source stays
what it was. ``token=``, ``key=`` and ``num_tokens=`` are everyday names of tensors in our field: what follows them is
masked unless it reads as a dtype, a number or an argument's description.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

__all__ = ["MASK", "names_secret", "scrub", "scrub_code", "scrub_command"]

MASK = "<redacted>"

_MIXED = r"(?=[\w-]*[0-9A-Z])"  # `hf_transformers` is a name, `hf_aB3...` a token
_ISSUED = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|(?<![A-Za-z0-9])(?:"
    rf"hf_{_MIXED}[A-Za-z0-9]{{8,}}"  # Hugging Face
    r"|gh[pousr]_[A-Za-z0-9]{8,}|github_pat_\w{8,}|glpat-[\w-]{8,}"  # GitHub, GitLab
    rf"|[sr]k-{_MIXED}[\w-]{{8,}}|[spr]k_(?:live|test)_\w{{8,}}"  # OpenAI, Anthropic, Stripe
    r"|(?:AKIA|ASIA)[0-9A-Z]{12,}|AIza[\w-]{16,}|ya29\.[\w-]{8,}"  # AWS, Google
    r"|xox[abeprs]-[\w-]{8,}|npm_[A-Za-z0-9]{20,}|pypi-AgE[\w-]{8,}|dckr_pat_[\w-]{8,}"  # Slack, registries
    r"|eyJ[\w-]{6,}\.[\w-]{4,}(?:\.[\w-]*)?"  # JSON web tokens
    r")"
    r"|(?i:(?<=bearer )[\w.~+/=-]{6,})"
    r"|(?<=://)(?:[^/\s@:\"']*:[^/\s@\"']+|[^/\s@\"']{16,})(?=@)"  # user:password@host
)

_NAME = (
    r"(?:password|passwd|passphrase|secret|credentials?|api[_-]?key|access[_-]?key|secret[_-]?key|private[_-]?key"
    r"|(?:auth|access|refresh|session|bearer|id)[_-]?token|token|pat)"
)
_HARMLESS = r"(?!(?:bf16|[fiu]\d+|bool|b?float|u?int|torch\.|\d{1,8}\b|None\b|[Tt]rue\b|[Ff]alse\b|str\b|<redacted>))"
_VALUE = rf"{_HARMLESS}[^\s\"',;&)}}\]]{{3,}}"
_NAMED = re.compile(
    rf"(?P<flag>(?i:--(?:[a-z0-9]+[_-])*{_NAME}(?:=|\s+)[\"']?))(?!-){_VALUE}"
    rf"|(?P<query>(?i:(?<=[?&])(?:[\w-]*{_NAME}|key|sig|signature|X-Amz-[\w-]+)=))[^&\s\"'#]+"
    r"|(?P<variable>\b[A-Z0-9_]*(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|_PWD|_PAT|_AUTH|_DSN)"
    rf"[\"']?\]?\s*[=:]\s*[\"']?){_VALUE}"
    rf"|(?P<field>(?i:(?<![A-Za-z0-9])(?:[a-z0-9]+[_-])*{_NAME}(?:\s*=\s*[\"']?|[\"']\s*:\s*[\"']?)))(?<!==){_VALUE}"
    r"|(?P<sentence>(?i:\b(?:password|passphrase|secret|api[_-]?key)\s*:\s*[\"']?))" + _VALUE + "|"
    r"(?P<header>(?i:\b(?:proxy-)?authorization[\"']?\s*[:=]\s*[\"']?(?:[a-z]+\s+)?+))" + _VALUE + "|"
    r"(?P<cookie>(?i:\b(?:set-)?cookie[\"']?\s*:\s*))[^\r\n\"']+"
)
_FLAG = re.compile(rf"(?i)--(?:[a-z0-9]+[_-])*{_NAME}")

_SECRET_WORDS = frozenset(
    {
        *("KEY", "KEYS", "APIKEY", "TOKEN", "TOKENS", "SECRET", "SECRETS", "PASSWORD", "PASSWD", "PASSPHRASE", "PASS"),
        *("PGPASSWORD", "PWD", "CREDENTIAL", "CREDENTIALS", "AUTH", "PAT", "DSN", "COOKIE", "BEARER", "SIGNATURE"),
        "WEBHOOK",
    }
)
_SHORTEST_VALUE = 8
"""Values of secret variables shorter than this are not searched for: they would mask ordinary words."""


def scrub(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text with everything masked that looks like a secret, and every value of a variable that is named as one.

    Args:
        text: a message, a traceback, an address, one word of a command line.
        environment: the variables whose secrets are looked for; the process's own unless given.

    Example:
        >>> scrub("fetch --token s3cr3t https://me:swordfish@host/x?sig=abc", {})
        'fetch --token <redacted> https://<redacted>@host/x?sig=<redacted>'
        >>> scrub("KeyError: 'swordfish'", {"DB_PASSWORD": "swordfish"})
        "KeyError: '<redacted>'"
        >>> scrub("--arg tokens=i64[8,512]<50257 --arg key=bf16[8,64]", {})
        '--arg tokens=i64[8,512]<50257 --arg key=bf16[8,64]'
    """
    return _NAMED.sub(lambda match: f"{match[match.lastgroup or 0]}{MASK}", scrub_code(text, environment))


def scrub_code(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text with issued tokens, credentials in addresses and values of secret variables masked, nothing else."""
    for secret in _secrets(os.environ if environment is None else environment):
        text = text.replace(secret, MASK)
    return _ISSUED.sub(MASK, text)


def scrub_command(words: Sequence[str], environment: Mapping[str, str] | None = None) -> list[str]:
    """A command line with its secrets masked, those in a word of their own after ``--token`` included.

    Example:
        >>> scrub_command(["fuselab", "run", "--api-key", "s3cr3t", "--seed", "7"])
        ['fuselab', 'run', '--api-key', '<redacted>', '--seed', '7']
    """
    flags = ["", *words][: len(words)]
    return [
        MASK if _FLAG.fullmatch(flag) and not word.startswith("--") else scrub(word, environment)
        for flag, word in zip(flags, words, strict=True)
    ]


def names_secret(variable: str) -> bool:
    """Whether an environment variable's name says that its value is a secret.

    Example:
        >>> [names_secret(name) for name in ("HF_TOKEN", "PGPASSWORD", "TOKENIZERS_PARALLELISM", "PWD")]
        [True, True, False, False]
    """
    return variable not in ("PWD", "OLDPWD") and not _SECRET_WORDS.isdisjoint(re.split(r"[_\W]", variable.upper()))


def _secrets(environment: Mapping[str, str]) -> list[str]:
    """Values to look for, the longest first; a path names a secret without being one."""
    values = {
        value
        for name, value in environment.items()
        if len(value) >= _SHORTEST_VALUE and not value.startswith(("/", "~")) and names_secret(name)
    }
    return sorted(values, key=len, reverse=True)

"""What must reach no file of a run: tokens, passwords, credentials in addresses.

Two doors: ``looks_secret`` decides on an environment variable, ``redact`` masks what it finds in a text that is about
to be written (a command line, an exception's message, a traceback). Both err on the side of masking.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

__all__ = ["MASK", "looks_secret", "redact"]

MASK = "<withheld>"

_WORDS = (
    r"token|secret|passw|passphrase|passcode|credential|api_?key|access_?key|private|auth(?!or)|cookie|bearer|"
    r"signature|jwt|webhook"
)
_SECRET_NAME = re.compile(rf"{_WORDS}|(^|_)(key|keys|pwd|pat|dsn|sig|sas)(_|$)", re.IGNORECASE)

# In a text a name must end with the word: ``num_tokens=4096`` and ``--arg token=i64[8]`` are ordinary arguments.
_ASSIGNED = (
    r"(?:token|secret|password|passwd|passphrase|passcode|credentials?|api[_-]?key|access[_-]?key|secret[_-]?key|"
    r"private[_-]?key|authorization|cookie|jwt|webhook)"
)
_ORDINARY = r"(?!\w+\[|[-+\d.]+(?:\s|$|[,;)])|None\b|True\b|False\b)"

_SECRET_TEXT = re.compile(
    "|".join(
        (
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
            r"(?<=://)[^/\s@\"']+(?=@)",  # user:password@ in an address
            rf"(?i:(?<=[?&])(?:x-amz-[a-z-]+|[a-z_-]*(?:{_WORDS}|key|sig))=[^&\s\"']+)",
            r"\b(?i:bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}",
            r"\b(?:hf|gh[pousr]|github_pat|npm|dckr_pat|pypi|glpat|sk|pk|rk|xox[abeprs]|shpat|dop_v1|tskey)[_-]"
            r"(?=[A-Za-z0-9_-]*[0-9A-Z])[A-Za-z0-9_-]{8,}",
            r"\b(?:AKIA|ASIA|AIza|ya29\.)[0-9A-Za-z_-]{12,}",
            r"\beyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?",  # a JSON web token
            rf"(?i:(?<![a-z])(?:[\w-]*[_-])?{_ASSIGNED}[\"']?\s*[=:]\s*){_ORDINARY}[\"']?[^\s\"',;&]+",
            rf"(?i:--(?:[\w-]*-)?{_ASSIGNED}\s+)[^\s-]\S*",
        )
    )
)

# A word without separators that mixes cases and digits, or a long hexadecimal one, is a key more often than a setting.
_RANDOM_WORD = re.compile(r"[A-Za-z0-9+=]{20,}")
_LONG_HEX = re.compile(r"[0-9a-fA-F]{32,}")
_SHORTEST_MASKED = 6
"""Values of secret variables shorter than this are not searched for: they would mask ordinary words."""


def _random(text: str) -> bool:
    if _LONG_HEX.search(text):
        return True
    return any(
        any(c.islower() for c in word) and any(c.isupper() for c in word) and sum(c.isdigit() for c in word) >= 2
        for word in _RANDOM_WORD.findall(text)
    )


def looks_secret(name: str, value: str) -> bool:
    """Whether a variable's name says that it holds a secret, or its value looks like one.

    Example:
        >>> looks_secret("FUSELAB_TOKEN", "1"), looks_secret("TORCH_LOGS", "+dynamo,output_code")
        (True, False)
        >>> looks_secret("TORCHINDUCTOR_REMOTE", "redis://me:swordfish@cache:6379")
        True
    """
    return bool(_SECRET_NAME.search(name)) or bool(_SECRET_TEXT.search(value)) or _random(value)


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text with everything masked that looks like a secret, and every value of a variable that is named as one.

    Args:
        text: a command line, a message, a traceback.
        environment: the variables whose secrets are searched for; the process's own unless given.

    Example:
        >>> redact("fetch --token abc123 from s3://me:swordfish@host/x", {})
        'fetch <withheld> from s3://<withheld>@host/x'
        >>> redact("KeyError: 'swordfish'", {"DB_PASSWORD": "swordfish"})
        "KeyError: '<withheld>'"
    """
    variables = os.environ if environment is None else environment
    secrets = {
        value for name, value in variables.items() if len(value) >= _SHORTEST_MASKED and _SECRET_NAME.search(name)
    }
    # A setting such as SESSION_DIR=/home/me names a secret without being one: paths stay readable.
    for secret in sorted((s for s in secrets if not s.startswith(("/", "~"))), key=len, reverse=True):
        text = text.replace(secret, MASK)
    return _SECRET_TEXT.sub(MASK, text)

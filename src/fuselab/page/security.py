"""The page's Content-Security-Policy: nothing is fetched, and nothing runs but what was written here, by its hash."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

__all__ = ["policy", "source_hash"]


def source_hash(text: str) -> str:
    """The hash by which a policy lets an inline element through.

    Example:
        >>> source_hash("alert(1)")
        "'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI='"
    """
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def policy(scripts: Sequence[str], styles: Sequence[str]) -> str:
    """The policy for the inline scripts and styles given; everything else is refused, every address too.

    Args:
        scripts, styles: the texts of the inline elements, exactly as they stand in the page.
    """
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(map(source_hash, scripts)) or chr(39) + 'none' + chr(39)}",
            f"style-src {' '.join(map(source_hash, styles)) or chr(39) + 'none' + chr(39)}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )

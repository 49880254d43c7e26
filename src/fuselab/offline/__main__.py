"""``python -m fuselab.offline``: one request on stdin, the answer as ``answer.json`` in the request's directory."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from fuselab import child
from fuselab.offline.messages import Request
from fuselab.offline.process import ANSWER, carry_out


def main() -> None:
    """Carry out the request; whatever goes wrong in the user's own code is part of the answer."""
    child.die_with_parent()
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    answer = carry_out(request)
    path = Path(request.into) / ANSWER
    path.write_bytes(msgspec.json.encode(answer, enc_hook=str))


if __name__ == "__main__":
    main()

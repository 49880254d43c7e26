"""``python -m fuselab``."""

from __future__ import annotations

import sys

from fuselab.cli import main

if __name__ == "__main__":
    sys.exit(main())

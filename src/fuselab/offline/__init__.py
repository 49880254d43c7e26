"""What ``torch.compile`` would run on a device that is not here: generated, compiled, read; nothing is measured.

The door is :func:`inspect`. A process of its own describes the device to torch, Inductor and Triton and lets them run
to the end; nothing in the caller's process is touched.
"""

from __future__ import annotations

from fuselab.offline.inspection import inspect
from fuselab.offline.results import Inspection

__all__ = ["Inspection", "inspect"]

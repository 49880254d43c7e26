"""Capture: everything that ``torch.compile`` generates on the way from the user's line to the machine instruction.

The door is :func:`capture`, a context manager; :func:`cache_environment` is for processes that share its caches.
"""

from fuselab.capture.caches import cache_environment
from fuselab.capture.session import Capture, capture

__all__ = ["Capture", "cache_environment", "capture"]

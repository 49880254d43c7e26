"""The run directory: create, append, adopt, read, list, migrate. The only room that knows its layout.

::

    <root>/<experiment>/<UTC stamp>-<short id>/
      metadata.json        replaced whole: temporary file, flushed, renamed
      environment.json     written once
      measurements.jsonl   one line a cell, appended a group at a time with one write
      graphs/, kernels/    <variant>/<workload>/<direction>/..., moved in by rename
      plots/
      .lock                held by the process that carries the run out
      .staging/, .caches/  only while the run is carried out

JSON and text only: nothing in a run is ever unpickled or executed. Secrets are masked on the way in.
"""

from __future__ import annotations

from fuselab.store.listing import Rejected, RunSummary, list_runs, open_run
from fuselab.store.redaction import scrub
from fuselab.store.run import Run, create_run

__all__ = ["Rejected", "Run", "RunSummary", "create_run", "list_runs", "open_run", "scrub"]

"""Environment variables of torch and triton: what each does, when it is read, and how to set it in time.

``catalogue`` holds the data, ``installation`` finds who reads a variable here, ``findings`` judges what is set,
``script`` what a program sets, ``probes`` shows effects live, ``moment`` is :data:`fuselab.env`.
"""

from __future__ import annotations

from fuselab.env_vars.catalogue import Catalogue, Dead, Moment, Variable, catalogue
from fuselab.env_vars.moment import TooLateError, env

__all__ = ["Catalogue", "Dead", "Moment", "TooLateError", "Variable", "catalogue", "env"]

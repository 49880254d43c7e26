"""Sweeps: plans of many cells over many devices on Dask distributed; the run store stays the single truth.

``plan`` reads PLAN.toml, ``cost`` predicts what it takes, ``conduct`` carries it out: ``dispatch`` hands units to
workers (``seat``), whose results are appended to runs as they arrive. ``record`` is the sweep's own directory;
``results``, ``charts`` and ``page`` are what is made of them. Dask and pyarrow are imported when they are needed, and
nowhere else.
"""

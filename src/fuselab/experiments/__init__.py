"""The experiments that ship with fuselab, and what turns a user's own code into one.

One file an experiment, each with an ``EXPERIMENT``; ``fuselab.experiment.load_registry`` collects them. ``user`` makes
an experiment of ``FILE.py:NAME`` and ``arguments`` reads its ``--arg``. Nothing here imports torch before a worker
calls it.
"""

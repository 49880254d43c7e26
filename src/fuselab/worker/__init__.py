"""Workers: check one variant or time one group, in a process of its own.

``supervise`` is the parent's side, ``__main__`` the child's; ``messages`` is what they say to each other; ``check`` and
``timing`` do the work and can also be called in the user's own process.
"""

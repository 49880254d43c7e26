"""The graph doctor: graph breaks and recompilations with the user's line, the reason, the edit and its proof.

``diagnose`` starts the processes that run the user's code (``observe`` in ``__main__``), and joins what the compiler
says there (``listener``) with the source and the catalogue of ``causes``. Only the observing process imports torch.
"""

from fuselab.diagnosis.doctor import diagnose
from fuselab.diagnosis.records import Diagnosis, json_schema

__all__ = ["Diagnosis", "diagnose", "json_schema"]

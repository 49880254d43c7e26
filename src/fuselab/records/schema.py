"""The JSON Schema in ``docs/schema.json``, written out from the definitions of the records."""

from __future__ import annotations

from typing import Any

import msgspec

from fuselab.records.environment import Environment
from fuselab.records.measurement import Measurement
from fuselab.records.run import RunMetadata


def json_schema() -> dict[str, Any]:
    """JSON Schema of the files in a run directory, from the definitions of the records.

    Example:
        >>> sorted(json_schema()["$defs"])[:3]
        ['Artifact', 'Ceiling', 'Clock']
    """
    types = [RunMetadata, Measurement, Environment]
    refs, definitions = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fuselab run directory",
        "oneOf": list(refs),
        "$defs": definitions,
    }

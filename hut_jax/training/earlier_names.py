"""The names in runs written by earlier versions that have changed since."""

from collections.abc import Mapping
from typing import Any

EARLIER = {"headline": "score", "seconds_per_update": "seconds_per_step"}


def current_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values under today's names, in nested dicts too.

    The values come from `metrics.jsonl`, a checkpoint's progress or `result.json`. In an earlier `result.json`,
    "headline" is today's "score_name".
    """
    current = {}
    for name, value in values.items():
        if name == "headline" and isinstance(value, str):
            name, value = "score_name", EARLIER.get(value, value)
        current[EARLIER.get(name, name)] = current_names(value) if isinstance(value, Mapping) else value
    return current

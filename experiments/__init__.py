"""From configs to one JSONL for each study to tables and pictures; README.md says how.

A study ends with tables and pictures. The packages that they need are looked for here, before a run starts.
"""

from importlib.util import find_spec

NEEDED = ("matplotlib", "pandas")
"""The packages of the extra `experiments`."""

if missing := [name for name in NEEDED if find_spec(name) is None]:
    raise SystemExit(f'error: the experiments need {" and ".join(missing)}: pip install ".[experiments]"')

from pathlib import Path

import pytest

from hut_jax.metrics.e2e.files import align, read_outputs, read_references

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def systems(request):
    """A function from a system's name to the folder of its outputs and the folder of their references.

    The systems that end in `-made` are made up; the others are the challenge's.
    """

    def folders(system):
        if system.endswith("-made"):
            return ROOT / "tests/samples/e2e_systems", ROOT / "tests/samples/e2e"
        real_data = request.getfixturevalue("real_data")
        return real_data / "e2e_systems", real_data / "e2e"

    return folders


@pytest.fixture
def outputs_of(systems):
    """A function from a system's name to its outputs and their references."""

    def read(system):
        outputs, references = systems(system)
        split, suffix = ("testset_w_refs", "tsv") if system.startswith("test") else ("devset", "txt")
        return align(read_outputs(outputs / f"{system}.{suffix}"), read_references(references / f"{split}.csv"))

    return read

from pathlib import Path

import pytest

from hut_jax.metrics.e2e.files import align, read_outputs, read_references

DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data"


@pytest.fixture(scope="session")
def real_outputs():
    """A function from the name of one of the challenge's systems to its outputs and their references."""
    if not DATA.is_dir():
        pytest.skip("the real data is not beside the repository")

    def read(system):
        split, suffix = ("testset_w_refs", "tsv") if system.startswith("test") else ("devset", "txt")
        outputs = read_outputs(DATA / "e2e_systems" / f"{system}.{suffix}")
        return align(outputs, read_references(DATA / "e2e" / f"{split}.csv"))

    return read

import pytest

from hut_jax.metrics.e2e.files import align, read_outputs, read_references


@pytest.fixture(scope="session")
def real_outputs(real_data):
    """A function from the name of one of the challenge's systems to its outputs and their references."""

    def read(system):
        split, suffix = ("testset_w_refs", "tsv") if system.startswith("test") else ("devset", "txt")
        outputs = read_outputs(real_data / "e2e_systems" / f"{system}.{suffix}")
        return align(outputs, read_references(real_data / "e2e" / f"{split}.csv"))

    return read

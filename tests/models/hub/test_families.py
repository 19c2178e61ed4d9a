"""What interop knows of the families, which it does not import."""

from hut_jax.interop.tensors import MODEL_TYPES, NamesTensors
from hut_jax.models.hub.families import FAMILIES


def test_interop_lists_the_families_that_name_their_tensors():
    assert list(MODEL_TYPES) == sorted(FAMILIES)
    assert all(issubclass(family.config, NamesTensors) for family in FAMILIES.values())

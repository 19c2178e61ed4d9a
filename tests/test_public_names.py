"""The public names: all there, and imported when they are first used."""

import subprocess
import sys

import pytest

import hut_jax


@pytest.mark.parametrize("name", hut_jax.__all__)
def test_every_public_name_is_there(name):
    value = getattr(hut_jax, name)
    assert name in dir(hut_jax)
    assert getattr(value, "__name__", name) == name


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'hut_jax' has no attribute 'adaptor'"):
        _ = hut_jax.adaptor
    with pytest.raises(ImportError):
        exec("from hut_jax import adaptor")


def test_importing_the_library_imports_no_jax_and_the_data_sets_no_tfds_and_no_transformers():
    code = (
        "import sys, hut_jax; assert 'jax' not in sys.modules\n"
        "hut_jax.LoRA; assert 'hut_jax.models' not in sys.modules\n"
        "import hut_jax.data.e2e.dataset, hut_jax.data.glue.dataset, hut_jax.runs.run\n"
        "assert not {'tensorflow_datasets', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_exceptions_have_a_door_of_their_own():
    import hut_jax.errors

    assert hut_jax.errors.UserError is hut_jax.UserError
    assert issubclass(hut_jax.errors.Diverged, hut_jax.UserError)
    assert issubclass(hut_jax.errors.Interrupted, Exception)

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax import HUT, Adapter, UserError, load_adapter, save_adapter
from hut_jax.adapter_files import check_base, size_on_disk
from hut_jax.fingerprint import fingerprint


def dense(d, k):
    return {"kernel": jnp.ones((d, k)), "bias": jnp.zeros(k)}


PARAMS = {"layer_0": {"query": dense(8, 4), "value": dense(8, 8)}}
ADAPTER = Adapter(HUT(rank=4, spread="cyclic"), "query|value", ranks={"value": 2})


@pytest.fixture
def saved(tmp_path):
    factors = ADAPTER.init(jax.random.key(0), PARAMS)
    random = np.random.default_rng(0)
    factors = jax.tree.map(lambda leaf: jnp.asarray(random.standard_normal(leaf.shape), leaf.dtype), factors)
    save_adapter(tmp_path / "adapter", ADAPTER, factors, base_name="small", base_fingerprint=fingerprint(PARAMS))
    return tmp_path / "adapter", factors


def test_what_is_loaded_is_what_was_saved(saved):
    folder, factors = saved
    adapter, loaded = load_adapter(folder)
    assert adapter == ADAPTER
    assert jax.tree.structure(loaded) == jax.tree.structure(factors)
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(factors), strict=True):
        np.testing.assert_array_equal(a, b)
    assert {path.name for path in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert size_on_disk(folder) == sum(path.stat().st_size for path in folder.iterdir())


def test_saving_again_replaces_the_files_with_the_same_bytes(saved):
    folder, factors = saved
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    save_adapter(folder, ADAPTER, factors, base_name="small", base_fingerprint=fingerprint(PARAMS))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["adapter"]


def test_another_base_is_refused_unless_forced(saved):
    folder, _ = saved
    check_base(folder, PARAMS, name="small")
    other = {"layer_0": PARAMS["layer_0"] | {"value": dense(8, 4)}}
    with pytest.raises(UserError, match=r"trained on 'small' \(\w+\), and 'other' has other weights"):
        check_base(folder, other, name="other")
    check_base(folder, other, name="other", force=True)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("adapter_model.safetensors", lambda data: data[:40], "damaged or no safetensors file"),
        ("adapter_model.safetensors", lambda data: b"", "damaged or no safetensors file"),
        ("adapter_model.safetensors", None, "has no adapter_model.safetensors"),
        ("adapter_config.json", lambda data: b"{", "is no JSON"),
        ("adapter_config.json", lambda data: b"[]", "holds no JSON object"),
        ("adapter_config.json", lambda data: b"{}", "describes no adapter"),
        ("adapter_config.json", lambda data: data.replace(b'"rank"', b'"rnk"'), "hut has no setting 'rnk'"),
        ("adapter_config.json", None, "it has no adapter_config.json"),
    ],
)
def test_a_damaged_folder_is_one_line(saved, name, change, message):
    folder, _ = saved
    if change is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(change((folder / name).read_bytes()))
    with pytest.raises(UserError, match=message) as caught:
        load_adapter(folder)
    assert "\n" not in str(caught.value)


def test_the_description_says_what_the_adapter_is(saved):
    folder, _ = saved
    description = json.loads((folder / "adapter_config.json").read_text())
    assert description["transform"] == {"name": "hut", "rank": 4, "spread": "cyclic", "scale": True, "shift": True}
    assert description["base"] == {"name": "small", "fingerprint": fingerprint(PARAMS)}

import json
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hut_jax import HUT, Adapter, UserError, load_adapter, save_adapter
from hut_jax.adapters.files import check_base, size_on_disk
from hut_jax.adapters.fingerprint import fingerprint


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
        ("adapter_model.safetensors", lambda data: data[:40], "damaged or not a safetensors file"),
        ("adapter_model.safetensors", lambda data: b"", "damaged or not a safetensors file"),
        ("adapter_model.safetensors", None, "has no adapter_model.safetensors"),
        ("adapter_config.json", lambda data: b"{", "is not JSON"),
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


def test_a_base_given_on_loading_is_compared(saved):
    folder, factors = saved
    adapter, loaded = load_adapter(folder, PARAMS)
    jax.tree.map(np.testing.assert_array_equal, loaded, factors)
    other = jax.tree.map(lambda leaf: leaf + 1, PARAMS)
    with pytest.raises(UserError, match=r"trained on 'small' \(\w+\), and 'other' has other weights.*force it"):
        load_adapter(folder, other, name="other")
    assert load_adapter(folder, other, name="other", force=True)[0] == adapter
    smaller = {"layer_0": PARAMS["layer_0"] | {"value": dense(8, 4)}}
    with pytest.raises(UserError, match=r"factor layer_0/value/b has shape \[2, 8\]; its kernel wants \[2, 4\]"):
        load_adapter(folder, smaller, force=True)


def test_a_folder_fits_layers_apart_and_stacked(tmp_path):
    """What a scanned model trained is written layer by layer, and stacked again for a scanned base."""
    from hut_jax.core.scanned_layers import stack_layers

    apart = {f"layer_{i}": {"query": dense(8, 4)} for i in range(3)}
    apart = jax.tree.map(lambda leaf: leaf + np.random.default_rng(0).standard_normal(leaf.shape), apart)
    stacked = stack_layers(apart)
    assert fingerprint(stacked) == fingerprint(apart)
    adapter = Adapter(HUT(rank=2), "query")
    factors = jax.tree.map(lambda leaf: leaf + 1.0, adapter.init(jax.random.key(0), stacked))
    save_adapter(tmp_path, adapter, factors, base_fingerprint=fingerprint(stacked))
    assert sorted(load_file(tmp_path / "adapter_model.safetensors"))[0] == "layer_0/query/a"
    jax.tree.map(np.testing.assert_array_equal, load_adapter(tmp_path, stacked)[1], factors)
    jax.tree.map(np.testing.assert_array_equal, stack_layers(load_adapter(tmp_path, apart)[1]), factors)


def test_an_adapter_of_peft_is_told_apart(saved):
    folder, _ = saved
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
    with pytest.raises(UserError, match=r"holds an adapter of Hugging Face PEFT; read it with hut_jax.load_peft"):
        load_adapter(folder)


ODD = [
    None,
    True,
    5,
    1e30,
    10**30,
    "x",
    "(",
    [],
    [1],
    [[1]],
    {},
    {"a": {}},
    ["a", "b"],
    [["value", 10**9]],
    "layer",
    -1,
]


def refusal(folder):
    """What `load_adapter` says against the folder; nothing where it reads it."""
    try:
        load_adapter(folder, PARAMS)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_a_hostile_description_is_one_line_or_harmless(saved, value):
    folder, _ = saved
    path = folder / "adapter_config.json"
    whole = json.loads(path.read_text())
    inner = (
        [(key, None) for key in whole] + [("transform", key) for key in whole["transform"]] + [("base", "fingerprint")]
    )
    messages = {}
    for key, setting in inner:
        changed = json.loads(json.dumps(whole))
        if setting is None:
            changed[key] = value
        else:
            changed[key][setting] = value
        path.write_text(json.dumps(changed))
        messages[key, setting] = refusal(folder)
    assert messages["transform", None]
    assert messages["targets", None] or value in (None, [])
    assert not any("\n" in message for message in messages.values())


@pytest.mark.parametrize("text", ["[" * 100_000, '{"transform": ' * 50_000, "\x00", "\ud83d", "NaN"], ids=range(5))
def test_a_hostile_text_is_one_line(saved, text):
    folder, _ = saved
    (folder / "adapter_config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=r"adapter_config.json (is not JSON|holds no JSON object)"):
        load_adapter(folder)


def test_no_byte_of_the_weights_file_breaks_the_reader(saved):
    """Bytes of the header changed, and the file cut: an error in one line, or the file still says the same shapes."""
    folder, _ = saved
    path = folder / "adapter_model.safetensors"
    data = path.read_bytes()
    random = np.random.default_rng(0)
    messages = []
    for trial in range(300):
        changed = bytearray(data)
        if trial % 3 == 0:
            changed = changed[: random.integers(0, len(data))]
        else:
            for place in random.integers(0, 300, random.integers(1, 4)):
                changed[place] = random.integers(0, 256)
        path.write_bytes(changed)
        messages.append(refusal(folder))
    assert sum(map(bool, messages)) > 200
    assert not any("\n" in message for message in messages)


def test_the_two_files_must_belong_together(saved):
    """Saving replaces one after the other, and may be broken off between."""
    folder, factors = saved
    old = (folder / "adapter_config.json").read_bytes()
    save_adapter(folder, Adapter(HUT(rank=4), "query|value", ranks={"value": 2}), factors)
    (folder / "adapter_config.json").write_bytes(old)
    with pytest.raises(UserError, match=r"safetensors was written for another adapter_config.json; save the adapter"):
        load_adapter(folder)


def test_a_folder_loads_after_the_adapter_has_a_new_field(saved, monkeypatch):
    @dataclass(frozen=True)
    class Later(Adapter):
        new: str = field(default="", kw_only=True)

    folder, factors = saved
    monkeypatch.setattr("hut_jax.adapters.files.Adapter", Later)
    adapter, loaded = load_adapter(folder)
    assert adapter == Later(**{name: getattr(ADAPTER, name) for name in ("transform", "targets", "ranks")})
    jax.tree.map(np.testing.assert_array_equal, loaded, factors)

    save_adapter(folder, Later(HUT(rank=4), "query|value", ranks={"value": 2}, new="a"), factors)
    assert load_adapter(folder)[0].new == "a"
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"safetensors was written for another adapter_config.json"):
        load_adapter(folder)


def test_the_order_of_an_arrays_bytes_does_not_matter(saved, tmp_path):
    _, factors = saved
    save_adapter(tmp_path / "f", ADAPTER, jax.tree.map(np.asfortranarray, factors), PARAMS, base_name="small")
    jax.tree.map(np.testing.assert_array_equal, load_adapter(tmp_path / "f", PARAMS)[1], factors)
    with pytest.raises(UserError, match="has other weights, or another dtype"):
        load_adapter(tmp_path / "f", jax.tree.map(lambda leaf: leaf + 1, PARAMS))


def test_a_parameter_without_axes_stays_so(tmp_path):
    params = {**PARAMS, "slope": jnp.array(0.5)}
    adapter = Adapter(HUT(rank=4), "query", also_train="slope")
    save_adapter(tmp_path / "f", adapter, adapter.init(jax.random.key(0), params), params)
    assert load_adapter(tmp_path / "f", params)[1]["slope"]["d"].shape == ()


def test_factors_that_do_not_fit_the_base_are_not_saved(saved, tmp_path):
    _, factors = saved
    other = {"layer_0": PARAMS["layer_0"] | {"value": dense(8, 4)}}
    with pytest.raises(UserError, match=r"factor layer_0/value/b has shape \[2, 8\]; its kernel wants \[2, 4\]"):
        save_adapter(tmp_path / "new", ADAPTER, factors, other)
    assert not (tmp_path / "new").exists()


def test_factors_are_floats(saved):
    folder, _ = saved
    path = folder / "adapter_model.safetensors"
    save_file({name: leaf.astype(np.int32) for name, leaf in load_file(path).items()}, path)
    with pytest.raises(UserError, match=r"'layer_0/query/a' is int32, and factors are floats"):
        load_adapter(folder)


def test_the_description_says_what_the_adapter_is(saved):
    folder, _ = saved
    description = json.loads((folder / "adapter_config.json").read_text())
    assert description["transform"] == {"name": "hut", "rank": 4, "spread": "cyclic", "scale": True, "shift": True}
    assert set(description["versions"]) == {"hut_jax", "jax", "flax"}
    assert description["also_train"] == []
    assert description["base"] == {"name": "small", "fingerprint": fingerprint(PARAMS)}

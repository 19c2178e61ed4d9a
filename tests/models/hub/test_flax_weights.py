"""flax_model.msgpack as transformers 4.57.6 saved it: the same logits, no pickle, and one line for what is damaged."""

import json
import pickle
import shutil
from functools import partial
from pathlib import Path

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization
from safetensors.numpy import load_file

from hut_jax import HUT, Adapter, UserError, fingerprint, load_adapter, load_pretrained, save_adapter, save_pretrained
from hut_jax.models.compute import Compute
from tests.goldens.archives import unpacked
from tests.parity import change, check_parity

MODELS = unpacked("flax.zip")
NAMES = [
    "flax_bert",
    "flax_gpt2",
    "flax_gpt2_sharded",
    "flax_roberta_classification",
    "flax_roberta_mlm",
    "flax_roberta_mlm_safetensors",
]
FILE = "flax_model.msgpack"


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(MODELS / "flax_gpt2", tmp_path / "model"))


@pytest.fixture
def no_pickle(monkeypatch):
    """Whatever unpickles fails."""

    def never(*args, **kwargs):
        raise AssertionError("a pickle was read")

    for name in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, name, never)
    monkeypatch.setattr(np, "load", never)


def edit(folder, change):
    tree = serialization.msgpack_restore((folder / FILE).read_bytes())
    change(tree)
    (folder / FILE).write_bytes(serialization.to_bytes(tree))


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@partial(jax.jit, static_argnums=0)
def run(model, params, inputs):
    return model.apply({"params": params}, **inputs)


def test_every_golden_is_tried():
    assert sorted(path.name for path in MODELS.iterdir()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_transformers_flax_classes(name, no_pickle):
    lines = []
    model, params = load_pretrained(MODELS / name, report=lines.append)
    golden = load_file(MODELS / name / "golden.safetensors")
    expected = golden.pop("hidden" if "hidden" in golden else "logits")
    real = golden["attention_mask"].astype(bool) if expected.ndim == 3 else ...
    ours, changed = (np.asarray(run(model, given, golden))[real] for given in (params, change(params)))
    check_parity(ours, expected[real], changed, 1e-4)
    assert lines == []


@pytest.mark.parametrize(
    "name", ["flax_gpt2_sharded", pytest.param("flax_roberta_classification", marks=pytest.mark.full)]
)
def test_flax_and_safetensors_are_one_base_for_adapters(name, tmp_path):
    model, params = load_pretrained(MODELS / name, compute=Compute(scan_layers=True))
    save_pretrained(tmp_path / "converted", model, params)
    _, again = load_pretrained(tmp_path / "converted")
    assert fingerprint(again) == fingerprint(params)
    adapter = Adapter(HUT(rank=2), "query")
    save_adapter(tmp_path / "adapter", adapter, adapter.init(jax.random.key(0), again), again)
    loaded, _ = load_adapter(tmp_path / "adapter", load_pretrained(MODELS / name)[1])
    assert loaded == adapter
    other = jax.tree.map(lambda leaf: leaf * 2, again)
    with pytest.raises(UserError, match="was trained on"):
        load_adapter(tmp_path / "adapter", other)


def test_safetensors_win_where_a_folder_has_both(folder):
    model, params = load_pretrained(folder)
    save_pretrained(folder, model, jax.tree.map(lambda leaf: leaf + 1, params))
    assert (folder / FILE).exists()
    equal(load_pretrained(folder)[1], jax.tree.map(lambda leaf: leaf + 1, params))


def test_a_head_of_another_task_is_drawn_and_left_out():
    lines = []
    model, params = load_pretrained(MODELS / "flax_roberta_mlm", head="classification", report=lines.append)
    assert model.config.head == "classification"
    assert lines[0].endswith("'classifier/out/kernel', 'classifier/out/bias'")
    assert "'lm_head.bias'" in lines[1]
    equal(params["layer_0"], load_pretrained(MODELS / "flax_roberta_mlm")[1]["layer_0"])


def test_half_precision_and_arrays_in_chunks(folder, monkeypatch):
    params = load_pretrained(folder)[1]
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 100)
    edit(folder, lambda tree: tree.update(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tree)))
    assert b"chunked_array" in (folder / FILE).read_bytes()
    expected = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    equal(load_pretrained(folder, compute=Compute(dtype=jnp.bfloat16))[1], expected)


@pytest.mark.parametrize(
    "damage", [lambda whole: whole[:-9], lambda whole: b"", lambda whole: b"version https://git-lfs.github.com"]
)
def test_a_damaged_file_is_one_line(folder, damage):
    path = folder / FILE
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        UserError, match=rf"{FILE}: \d+ bytes, not a whole Flax msgpack file .*; fetch it again"
    ) as error:
        load_pretrained(folder)
    assert "\n" not in str(error.value)


def test_what_the_tree_lacks_or_has_too_much_is_named(folder):
    edit(folder, lambda tree: tree["transformer"]["ln_f"].pop("bias"))
    edit(folder, lambda tree: tree["transformer"]["h"]["0"].update(extra={"kernel": np.ones((2, 3), np.int8)}))
    with pytest.raises(UserError, match=r"1 missing: 'transformer.ln_f.bias'; 1 unknown: 'transformer.h.0.extra.wei"):
        load_pretrained(folder)


def test_shards_must_be_there_and_inside_the_folder(tmp_path):
    folder = Path(shutil.copytree(MODELS / "flax_gpt2_sharded", tmp_path / "model"))
    index = folder / f"{FILE}.index.json"
    before = index.read_text()
    index.unlink()
    equal(load_pretrained(folder)[1], load_pretrained(MODELS / "flax_gpt2_sharded")[1])
    shard = folder / "flax_model-00002-of-00006.msgpack"
    shard.unlink()
    with pytest.raises(UserError, match=r"not all shards .* but 5"):
        load_pretrained(folder)
    index.write_text(before)
    with pytest.raises(UserError, match=f"{shard.name}: no such file, though {FILE}.index.json names it"):
        load_pretrained(folder)
    index.write_text(json.dumps({"weight_map": {"transformer/wte/embedding": f"../{shard.name}"}}))
    with pytest.raises(UserError, match="is outside the folder"):
        load_pretrained(folder)


def test_a_variant_comes_after_them(tmp_path):
    both = shutil.copytree(MODELS / "flax_gpt2", tmp_path / "both")
    (both / "model.fp16.safetensors").write_bytes(b"not even looked at")
    _, params = load_pretrained(both)
    jax.tree.map(np.testing.assert_array_equal, params, load_pretrained(MODELS / "flax_gpt2")[1])
    (both / FILE).unlink()
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_pretrained(both)


def test_of_a_hub_name_flax_weights_are_downloaded_only_where_there_are_no_safetensors(monkeypatch):
    asked = []

    def download(name, revision, allow_patterns):
        asked.append(list(allow_patterns))
        return str(MODELS / "flax_gpt2")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    load_pretrained("some/gpt2")
    repository = [
        *("config.json", FILE, f"{FILE}.index.json", "flax_model-00001-of-00002.msgpack"),
        *("pytorch_model.bin", "tf_model.h5", "model.safetensors", "onnx/model.msgpack"),
    ]
    first, second = (list(huggingface_hub.utils.filter_repo_objects(repository, allow_patterns=it)) for it in asked)
    assert first == ["config.json", "model.safetensors"]
    assert second == repository[:4]

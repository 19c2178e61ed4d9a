"""Hugging Face files: loading, saving, and what is said when they are not right."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from hut_jax.core.errors import UserError
from hut_jax.core.scanned_layers import stack_layers
from hut_jax.models.compute import Compute
from hut_jax.models.gpt2 import GPT2
from hut_jax.models.gpt2_config import GPT2Config
from hut_jax.models.hub.pretrained import build_model, init_params, load_pretrained
from hut_jax.models.hub.saving import save_pretrained
from tests.goldens.archives import golden_models

MODELS = golden_models()


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of one file, to be damaged."""
    return Path(shutil.copytree(MODELS / "gpt2_left_padded", tmp_path / "model"))


@pytest.fixture
def sharded(tmp_path):
    return Path(shutil.copytree(MODELS / "gpt2_sharded", tmp_path / "model"))


def edit(folder, change):
    """Rewrites model.safetensors with `change(tensors)` applied."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def edit_json(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refused(message, call, *args):
    with pytest.raises(UserError, match=message) as error:
        call(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_c_attn_is_split_in_order():
    folder = MODELS / "gpt2_left_padded"
    fused = load_file(folder / "model.safetensors")["transformer.h.1.attn.c_attn.weight"]
    _, params = load_pretrained(folder)
    for i, name in enumerate(("query", "key", "value")):
        kernel = params["layer_1"]["attention"][name]["kernel"]
        np.testing.assert_array_equal(kernel, fused[:, 12 * i : 12 * (i + 1)])


ENCODERS = ["roberta_odd", "roberta_mlm", "roberta_classification", "roberta_untied", "bert_bare", "bert_mlm"]


@pytest.mark.parametrize("name", ["gpt2_right_padded", "gpt2_sharded", "gpt2_untied", "gpt2_variant", *ENCODERS])
@pytest.mark.parametrize("scan_layers", [False, pytest.param(True, marks=pytest.mark.full)])
def test_saving_is_the_inverse_of_loading(tmp_path, name, scan_layers):
    model, params = load_pretrained(MODELS / name, compute=Compute(scan_layers=scan_layers))
    save_pretrained(tmp_path / "a" / "b", model, params)
    again, loaded = load_pretrained(tmp_path / "a" / "b", compute=Compute(scan_layers=scan_layers))
    assert again == model
    equal(loaded, params)
    ours = load_file(tmp_path / "a" / "b" / "model.safetensors")
    files = [load_file(file) for file in (MODELS / name).glob("model*.safetensors")]
    theirs = {key: value for file in files for key, value in file.items()}
    if name == "gpt2_right_padded":  # the old names and buffers
        theirs = {f"transformer.{key}": value for key, value in theirs.items() if ".attn.bias" not in key}
        theirs = {key: value for key, value in theirs.items() if "masked_bias" not in key}
    if name == "bert_mlm":  # the same
        theirs = {key.replace("gamma", "weight").replace("beta", "bias"): value for key, value in theirs.items()}
        theirs.pop("bert.embeddings.position_ids")
    if name == "roberta_untied":  # one bias under two names, of which transformers reads this one
        theirs["lm_head.bias"] = theirs["lm_head.decoder.bias"]
    assert ours.keys() == theirs.keys()
    for key in ours:
        np.testing.assert_array_equal(ours[key], theirs[key])
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == ["config.json", "model.safetensors"]
    with safe_open(tmp_path / "a" / "b" / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}


def test_scanned_loading_stacks():
    folder = MODELS / "gpt2_variant"
    equal(load_pretrained(folder, compute=Compute(scan_layers=True))[1], stack_layers(load_pretrained(folder)[1]))


def test_bf16(tmp_path):
    folder = MODELS / "gpt2_variant"
    model, params = load_pretrained(folder, compute=Compute(dtype=jnp.bfloat16))
    assert model.dtype == jnp.bfloat16
    full = load_pretrained(folder)[1]
    equal(params, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), full))
    save_pretrained(tmp_path, model, params)
    with safe_open(tmp_path / "model.safetensors", "numpy") as file:
        names = file.keys()
        assert {file.get_slice(name).get_dtype() for name in names} == {"BF16"}
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    equal(load_pretrained(tmp_path, compute=Compute(dtype=jnp.bfloat16))[1], params)
    save_pretrained(tmp_path, model, full, dtype=jnp.bfloat16)
    assert load_file(tmp_path / "model.safetensors")["transformer.wte.weight"].dtype == ml_dtypes.bfloat16
    equal(load_pretrained(tmp_path, compute=Compute(dtype=jnp.bfloat16))[1], params)


def test_half_precision_files_load_as_fp32(folder):
    edit(folder, lambda t: t.update({name: value.astype(np.float16) for name, value in t.items()}))
    table = load_pretrained(folder)[1]["token_embedding"]["embedding"]
    assert table.dtype == jnp.float32
    expected = load_file(folder / "model.safetensors")["transformer.wte.weight"]
    np.testing.assert_array_equal(table, expected.astype(np.float32))


def test_a_tied_head_may_be_stored_if_it_is_the_embedding(folder):
    before = load_pretrained(folder)[1]
    edit(folder, lambda t: t.update({"lm_head.weight": t["transformer.wte.weight"]}))
    equal(load_pretrained(folder)[1], before)
    edit(folder, lambda t: t.update({"lm_head.weight": t["transformer.wte.weight"] + 1}))
    refused("'lm_head.weight' is not 'transformer.wte.weight'.*'tie_word_embeddings' to false", load_pretrained, folder)
    edit_json(folder / "config.json", tie_word_embeddings=False)
    params = load_pretrained(folder)[1]
    np.testing.assert_array_equal(params["lm_head"]["kernel"].T, params["token_embedding"]["embedding"] + 1)


def test_config_alone_builds_a_model():
    model = build_model(MODELS / "gpt2_variant", compute=Compute(remat="dots", attention="xla"))
    assert model == GPT2(build_model(MODELS / "gpt2_variant").config, remat="dots", attention="xla")
    assert model.config.n_inner == 21
    drawn = jax.eval_shape(lambda: init_params(model, jax.random.key(0), dtype=jnp.bfloat16))
    loaded = load_pretrained(MODELS / "gpt2_variant", compute=Compute(dtype=jnp.bfloat16))[1]
    assert jax.tree.map(lambda x: (x.shape, x.dtype), drawn) == jax.tree.map(lambda x: (x.shape, x.dtype), loaded)


def test_an_overwritten_checkpoint_is_the_new_one(folder):
    model, params = load_pretrained(MODELS / "gpt2_variant")
    save_pretrained(folder, model, params)
    again, loaded = load_pretrained(folder)
    assert again == model
    equal(loaded, params)


def test_a_failed_save_leaves_what_was_there(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    model, params = load_pretrained(MODELS / "gpt2_variant")

    def full_disk(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hut_jax.core.files.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_pretrained(folder, model, params)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_saving_refuses_params_of_another_model(tmp_path):
    model, params = load_pretrained(MODELS / "gpt2_variant")
    less = {name: leaf for name, leaf in params.items() if name != "final_norm"}
    refused("params have no 'final_norm/(scale|bias)'", save_pretrained, tmp_path / "new", model, less)
    more = {**params, "adapter": {"x": jnp.zeros(2)}}
    refused("params have 'adapter/x', which the model does not have", save_pretrained, tmp_path / "new", model, more)
    other = {**params, "token_embedding": {"embedding": jnp.zeros((29, 13))}}
    refused(r"'token_embedding/embedding' is \[29, 13\], not \[29, 12\]", save_pretrained, tmp_path, model, other)
    refused("params have no 'layers/", save_pretrained, tmp_path / "new", model.clone(scan_layers=True), params)
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    refused("cannot make the folder", save_pretrained, tmp_path / "file", model, params)


def test_tensors_missing_unknown_and_misshapen_are_all_named(folder):
    def change(tensors):
        del tensors["transformer.ln_f.bias"]
        tensors["transformer.h.0.extra.weight"] = np.zeros(3, np.float32)
        tensors["transformer.h.0.mlp.c_fc.weight"] = np.zeros((48, 12), np.float32)
        tensors["transformer.wpe.weight"] = np.zeros((16, 12), np.int8)

    edit(folder, change)
    message = refused("its tensors are not those of its config.json", load_pretrained, folder)
    assert "1 missing: 'transformer.ln_f.bias'" in message
    assert "1 unknown: 'transformer.h.0.extra.weight'" in message
    assert "1 of another shape: 'transformer.h.0.mlp.c_fc.weight [48, 12], not [12, 48]'" in message
    assert "1 not floats: 'transformer.wpe.weight I8'" in message


def test_a_long_list_of_tensors_is_cut(folder):
    edit_json(folder / "config.json", n_layer=3)
    refused(r"12 missing: ('transformer.h.2[^']*'(, )?){4} and 8 more$", load_pretrained, folder)


def test_the_same_tensor_with_and_without_prefix_is_refused(folder):
    edit(folder, lambda t: t.update({"wpe.weight": t["transformer.wpe.weight"]}))
    refused("1 unknown", load_pretrained, folder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-100],
        lambda whole: whole[:50],
        lambda whole: b"",
        lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 548105171\n",
    ],
    ids=["truncated", "header truncated", "empty", "git-lfs pointer"],
)
def test_damaged_safetensors(folder, damage):
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    message = refused("not a whole safetensors file", load_pretrained, folder)
    assert str(path) in message


def test_shards_and_their_index(sharded):
    index = sharded / "model.safetensors.index.json"
    placed = json.loads(index.read_text())["weight_map"]
    last = "model-00006-of-00006.safetensors"
    name = next(name for name, shard in placed.items() if shard == last)

    for outside in (f"../{last}", str(sharded / last), f"x/../../{last}"):
        edit_json(index, weight_map={**placed, name: outside})
        refused("is outside the folder", load_pretrained, sharded)
    edit_json(index, weight_map={**placed, name: 3})
    refused("no 'weight_map'", load_pretrained, sharded)
    edit_json(index, weight_map=placed)
    load_pretrained(sharded)
    (sharded / last).unlink()
    refused(f"{last}: no such file", load_pretrained, sharded)
    index.write_text("[]")
    refused("holds no JSON object, but a list", load_pretrained, sharded)


def test_no_weights_and_only_a_pickle(folder):
    (folder / "model.safetensors").unlink()
    refused(
        r"neither model.safetensors nor model.safetensors.index.json nor flax_model.msgpack; an old model .* is "
        r"converted with transformers: GPT2LMHeadModel.from_pretrained\(NAME\)",
        load_pretrained,
        folder,
    )
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    refused("only pytorch_model.bin.*save_pretrained", load_pretrained, folder)


def test_config_json_errors(folder):
    path = folder / "config.json"
    edit_json(path, model_type="gpt_2")
    refused("model_type 'gpt_2' is not supported; did you mean 'gpt2'", load_pretrained, folder)
    values = json.loads(path.read_text())
    path.write_text(
        json.dumps({name: value for name, value in values.items() if name not in ("model_type", "architectures")})
    )
    refused("no 'model_type'; valid: 'bert', .*'gpt2', 'llama'", build_model, folder)
    path.write_text('{"model_type":\n')
    refused("config.json is not JSON", load_pretrained, folder)
    path.unlink()
    refused("no config.json in ", load_pretrained, folder)


@pytest.mark.parametrize("name", ["./modle", "/nowhere/modle", "~/no such folder", "a/b/c", "modle/"])
def test_what_looks_like_a_path_is_not_asked_of_the_hub(name, monkeypatch):
    def asked(*args, **kwargs):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", asked)
    assert name in refused("no such folder", load_pretrained, name)


@pytest.mark.parametrize("name", ["gpt2@", "some/gpt2@"])
def test_a_revision_without_a_name_is_refused(name):
    refused("no revision after the '@'; give a branch, a tag or a commit, or leave the '@' out", load_pretrained, name)


def test_a_path_object_is_never_a_name_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused("no such folder: some/gpt2; if that is a hub name, give it as a string", load_pretrained, Path("some/gpt2"))
    refused("no such folder: /a@b/c/d$", load_pretrained, "/a@b/c/d")


def test_a_wrong_path_names_the_nearest(folder):
    refused("no such folder: .*modle; did you mean 'model'", load_pretrained, folder.with_name("modle"))
    refused("is a file; give the folder", load_pretrained, folder / "config.json")


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """The hub's cache, empty and with no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_hub_name_comes_from_the_cache(offline):
    snapshot = offline / "models--some--gpt2" / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(MODELS / "gpt2_sharded", snapshot)
    (offline / "models--some--gpt2" / "refs").mkdir()
    (offline / "models--some--gpt2" / "refs" / "main").write_text(snapshot.name)
    model, params = load_pretrained("some/gpt2")
    equal(params, load_pretrained(MODELS / "gpt2_sharded")[1])
    assert model.config == build_model("some/gpt2").config


def test_a_revision_comes_from_the_cache(offline):
    snapshot = offline / "models--some--gpt2" / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(MODELS / "gpt2_sharded", snapshot)
    (offline / "models--some--gpt2" / "refs" / "refs" / "pr").mkdir(parents=True)
    (offline / "models--some--gpt2" / "refs" / "refs" / "pr" / "1").write_text(snapshot.name)
    equal(load_pretrained("some/gpt2@refs/pr/1")[1], load_pretrained(MODELS / "gpt2_sharded")[1])
    refused("no folder 'some/gpt2' here", load_pretrained, "some/gpt2")


@pytest.mark.parametrize("name", ["gpt2_left_padded", "gpt2_sharded"])
def test_the_only_variant_of_the_weights_is_read(name, tmp_path):
    variant = {
        "model.safetensors": "model.fp16.safetensors",
        "model.safetensors.index.json": "model.safetensors.index.fp16.json",
        **{f"model-0000{i}-of-00006.safetensors": f"model.fp16-0000{i}-of-00006.safetensors" for i in range(1, 7)},
    }
    for path in (MODELS / name).iterdir():
        shutil.copyfile(path, tmp_path / variant.get(path.name, path.name))
    index = tmp_path / "model.safetensors.index.fp16.json"
    if index.exists():
        index.write_text(index.read_text().replace("model-", "model.fp16-"))
    equal(load_pretrained(tmp_path)[1], load_pretrained(MODELS / name)[1])
    (tmp_path / "model.bf16.safetensors").write_bytes(b"")
    refused("no model.safetensors, but the variants bf16, fp16; keep the files of one", load_pretrained, tmp_path)


def test_offline_without_a_cached_copy(offline):
    refused("no folder 'some/gpt3' here, the hub cannot be reached", load_pretrained, "some/gpt3")
    refused("'two words' is neither a folder nor a hub name", load_pretrained, "two words")


def test_only_config_and_safetensors_are_downloaded(monkeypatch):
    patterns = []

    def download(name, revision, allow_patterns):
        patterns.extend(allow_patterns)
        return str(MODELS / "gpt2_variant")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    load_pretrained("some/gpt2")
    repository = [
        *("config.json", "model.safetensors", "model.safetensors.index.json", "model-00001-of-00002.safetensors"),
        *("pytorch_model.bin", "onnx/model.safetensors", "tf_model.h5", "README.md", "flax_model.msgpack"),
    ]
    assert list(huggingface_hub.utils.filter_repo_objects(repository, allow_patterns=patterns)) == repository[:4]


def test_hash_and_equality_of_the_config():
    """Models are static arguments of jit, so that they must hash and compare by value."""
    config = GPT2Config(23, 12, 8, 3, 2, eos_token_id=(1, 2))
    assert hash(GPT2(config)) == hash(GPT2(GPT2Config(23, 12, 8, 3, 2, eos_token_id=(1, 2))))


def test_how_a_model_computes_is_checked_when_it_is_said():
    refused("remat is 'dot'; did you mean 'dots'", Compute, jnp.float32, "dot")
    refused("attention is 'cudn'; did you mean 'cudnn'", Compute, jnp.float32, "none", False, "cudn")

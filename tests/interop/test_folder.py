import json

import numpy as np
import pytest

from hut_jax import UserError, load_peft

TARGET = "^layer_0/mlp/up$"


@pytest.fixture
def put(write):
    """Write an adapter of PEFT's to a folder."""

    def put(folder):
        tensors = {"transformer.h.0.mlp.c_fc.lora_A.weight": np.ones((1, 4), np.float32)}
        tensors["transformer.h.0.mlp.c_fc.lora_B.weight"] = np.ones((16, 1), np.float32)
        return write({"peft_type": "LORA", "r": 1}, tensors, folder)

    return put


def test_an_adapter_in_a_subfolder(gpt2, put, tmp_path):
    put(tmp_path / "style")
    put(tmp_path / "tone")
    expected = (
        r"no adapter_config.json; the subfolders of .* that have one are 'style', 'tone': give subfolder='style'$"
    )
    with pytest.raises(UserError, match=expected):
        load_peft(tmp_path, *gpt2)
    assert load_peft(tmp_path, *gpt2, subfolder="style")[0].targets == (TARGET,)
    assert load_peft(tmp_path / "style", *gpt2)[0].targets == (TARGET,)
    with pytest.raises(UserError, match=r"no adapter in .*mood: it has no adapter_config.json; the subfolders"):
        load_peft(tmp_path, *gpt2, subfolder="mood")


@pytest.mark.parametrize("subfolder", [None, "style"])
def test_an_adapter_under_a_hub_name(gpt2, put, tmp_path, monkeypatch, subfolder):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    put(tmp_path / "models--some--adapter" / "snapshots" / commit / (subfolder or ""))
    (tmp_path / "models--some--adapter" / "refs").mkdir()
    (tmp_path / "models--some--adapter" / "refs" / "main").write_text(commit)
    assert load_peft("some/adapter", *gpt2, subfolder=subfolder)[0].targets == (TARGET,)
    with pytest.raises(UserError, match=r"no folder 'other/adapter' here, the hub cannot be reached"):
        load_peft("other/adapter", *gpt2)


def test_the_description_is_read_before_the_tensors(gpt2, put, tmp_path):
    put(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"damaged")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "VERA"}))
    with pytest.raises(UserError, match="peft_type 'VERA' is not supported"):
        load_peft(tmp_path, *gpt2)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(UserError, match="damaged or not a safetensors file"):
        load_peft(tmp_path, *gpt2)


def test_a_description_without_a_method_is_completed_as_advised(gpt2, put, tmp_path):
    put(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({"r": 1}))
    with pytest.raises(UserError, match=r"it has no 'peft_type'; for LoRA, add .peft_type.: .LORA.$"):
        load_peft(tmp_path, *gpt2)
    path.write_text(json.dumps({"r": 1, "peft_type": "LORA"}))
    assert load_peft(tmp_path, *gpt2)[0].targets == (TARGET,)


def test_a_pickle_is_not_read(gpt2, put, tmp_path):
    put(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no adapter_model.safetensors; if there is an adapter_model.bin alone, conve"):
        load_peft(tmp_path, *gpt2)
    (tmp_path / "adapter_model.bin").touch()
    with pytest.raises(UserError, match=r"only adapter_model.bin, a pickle, which is never read here; convert it with"):
        load_peft(tmp_path, *gpt2)

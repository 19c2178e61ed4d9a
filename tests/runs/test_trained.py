"""A trained run, loaded from its workdir."""

import json
import shutil

import pytest

from hut_jax import UserError
from hut_jax.config import freeze
from hut_jax.runs.run import make_run
from hut_jax.runs.trained import load_run, read_trained_config


def test_a_trained_run_is_checked_before_its_weights_are_read(finished, small_model, tmp_path):
    run = load_run(finished)
    assert (run.task.name, run.config.model) == ("e2e", str(small_model))
    run.adapter.check(run.params, run.factors)

    small = tmp_path / "small"
    shutil.copytree(small_model, small)
    description = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps(description | {"vocab_size": 100}))
    (small / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"2,048 tokens, .* has a vocabulary of 100; set config.tokenizer to one"):
        load_run(finished, read_trained_config(finished, [f"--config.model={small}"]))


def test_another_tokenizer_is_refused_unless_forced_and_other_files_of_the_same_are_taken(
    finished, small_model, tmp_path
):
    other, same = (shutil.copytree(small_model, tmp_path / name) for name in ("other", "same"))
    (same / "tokenizer.json").unlink()  # the same tokens from vocab.json and merges.txt
    (other / "tokenizer.json").unlink()
    vocab = json.loads((other / "vocab.json").read_text(encoding="utf-8"))
    (first, a), (second, b) = [*vocab.items()][300:302]
    (other / "vocab.json").write_text(json.dumps(vocab | {first: b, second: a}), encoding="utf-8")
    config = read_trained_config(finished, [f"--config.tokenizer={other}"])
    with pytest.raises(UserError, match=r"other is not the tokenizer that the run was trained with; .*--force"):
        load_run(finished, config)
    load_run(finished, config, force=True)
    load_run(finished, read_trained_config(finished, [f"--config.tokenizer={same}"]))


@pytest.mark.full
def test_a_token_that_was_added_to_the_tokenizer_alone_is_refused_where_it_comes(
    small_config, glue_config, small_model, small_encoder, small_data, tmp_path
):
    """As GPT-2s whose pad token is beyond the vocabulary, which no text has."""
    base = shutil.copytree(small_model, tmp_path / "base")
    settings = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": "<pad>"}))
    small_config.model = str(base)
    run = make_run(freeze(small_config))
    assert (run.tokenizer.vocab_size, run.model.config.vocab_size) == (2049, 2048)
    wanted = make_run(freeze(small_config)).load_data().train
    small_config.tokenizer = str(small_model)
    assert wanted.tokens.tolist() == make_run(freeze(small_config)).load_data().train.tokens.tolist()

    data = shutil.copytree(small_data, tmp_path / "data")
    rows = (data / "devset.csv").read_text(encoding="utf-8").split("\n", 2)
    (data / "devset.csv").write_text("\n".join([rows[0], "name[Alba],Alba <pad>", rows[2]]), encoding="utf-8")
    small_config.data.update({"dir": str(data), "cache": str(tmp_path / "cache")})
    make_run(freeze(small_config)).load_data()
    small_config.tokenizer = ""
    with pytest.raises(
        UserError, match="the data has the token '<pad>', which was added to the tokenizer, and the model"
    ):
        make_run(freeze(small_config)).load_data()

    encoder = shutil.copytree(small_encoder, tmp_path / "encoder")
    (encoder / "tokenizer_config.json").write_text(json.dumps({"additional_special_tokens": ["<new>"]}))
    glue_config.model = str(encoder)
    with pytest.raises(UserError, match=r"set config\.tokenizer to one whose tokens the model all has"):
        make_run(freeze(glue_config))
    glue_config.tokenizer = str(small_encoder)
    make_run(freeze(glue_config))


def test_what_the_checkpoint_lacks_is_read_once(small_config, monkeypatch):
    run = make_run(freeze(small_config))
    calls = []
    monkeypatch.setattr("hut_jax.runs.run.missing_params", lambda *args, **kwargs: calls.append(1) or [])
    assert run.new_parameters == run.new_parameters == []
    assert len(calls) == 1

"""GLUE on a decoder: a label read at the last token, whatever pads the batch."""

import json
import shutil

import jax
import numpy as np
import pytest

from hut_jax import UserError, load_pretrained
from hut_jax.config import freeze
from hut_jax.data.tokenizer import load_tokenizer
from hut_jax.merge import main as merge
from hut_jax.predict import main as predict
from hut_jax.runs.run import make_run
from hut_jax.train import train
from hut_jax.training.log import read_metrics


@pytest.fixture
def decoder_config(glue_config, small_decoder):
    """A run of eight steps on the made-up STS-B, whose texts are pairs."""
    glue_config.task = "stsb"
    glue_config.model = str(small_decoder)
    return glue_config


def test_the_end_token_pads_where_a_tokenizer_has_no_other_and_transformers_is_told(decoder_config, tmp_path):
    run = make_run(freeze(decoder_config))
    assert run.tokenizer.special("pad") == run.tokenizer.eos_id == run.model.config.pad_token_id == 0
    run.tokenizer.save(tmp_path / "saved")
    told = json.loads((tmp_path / "saved/tokenizer_config.json").read_text())
    assert told["pad_token"] == "<|endoftext|>"
    assert load_tokenizer(tmp_path / "saved").special("pad") == 0

    other = shutil.copytree(decoder_config.model, tmp_path / "other")
    (other / "tokenizer_config.json").write_text(json.dumps(told | {"pad_token": "z"}))
    decoder_config.model = str(other)
    run = make_run(freeze(decoder_config))
    assert run.model.config.pad_token_id == run.tokenizer.encode("z")[0] != 0


def test_a_pair_without_a_template_is_its_texts_one_after_the_other(decoder_config):
    run = make_run(freeze(decoder_config))
    (ids,) = run.task.encode([("a cat", "the mat")], run.tokenizer, run.config.data)[0]
    assert list(ids) == run.tokenizer.encode("a cat") + run.tokenizer.encode("the mat")


def test_an_encoder_still_needs_the_tokens_that_frame_a_text(glue_config, small_decoder):
    glue_config.tokenizer = str(small_decoder)
    with pytest.raises(UserError, match="has no cls token"):
        make_run(freeze(glue_config))


@pytest.mark.full
def test_a_decoder_learns_values_that_padding_does_not_change(decoder_config, tmp_path):
    decoder_config.train.scan_layers = True
    train(freeze(decoder_config), tmp_path / "run")
    first, *_, last = [line for line in read_metrics(tmp_path / "run") if line["split"] == "validation"]
    assert last["loss"] < first["loss"]

    texts = [("a cat", "the mat"), ("the cat sat on a mat while rain fell all day", "and nobody came"), ("a", "a")]
    (tmp_path / "pairs.tsv").write_text("".join(f"{one}\t{two}\n" for one, two in texts))
    columns = []
    for number, padding in enumerate(["length_multiple=64", "length_multiple=1"]):
        output = tmp_path / f"values{number}.txt"
        arguments = [f"--workdir={tmp_path / 'run'}", f"--input={tmp_path / 'pairs.tsv'}", f"--output={output}"]
        predict([*arguments, f"--config.data.{padding}"])
        columns.append([float(line) for line in output.read_text().splitlines()])
    np.testing.assert_allclose(*columns, rtol=1e-5, atol=2e-6)

    merge([f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'merged'}"])
    model, params = load_pretrained(tmp_path / "merged")
    assert (model.config.head, model.config.labels, model.config.problem_type) == (
        "classification", ("score",), "regression"
    )  # fmt: skip
    tokenizer = load_tokenizer(tmp_path / "merged")
    apply = jax.jit(model.apply)
    alone = [apply({"params": params}, np.array([tokenizer.encode(one) + tokenizer.encode(two)])) for one, two in texts]
    np.testing.assert_allclose(columns[0], np.concatenate(alone)[:, 0], rtol=1e-5, atol=2e-6)
    assert np.ptp(columns[0]) > 1e-3

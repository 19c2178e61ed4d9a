"""What version 0.1 wrote still loads, and computes the same: adapters, workdirs and merged folders.

The files are tests/goldens/version_0_1, made by version 0.1 itself (tests/goldens/make_version_0_1.py).
"""

import functools
import json
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file

import hut_jax
from hut_jax import Compute, Head, evaluate, merge, predict
from hut_jax.config import default_config, freeze, set_transform
from hut_jax.data.tokenizer import load_tokenizer
from hut_jax.metrics.e2e import score as e2e
from hut_jax.train import train
from hut_jax.training.log import read_metrics
from tests.goldens.archives import golden_models

MODELS = golden_models()
VERSION_0_1 = Path(__file__).parent / "goldens/version_0_1"

with zipfile.ZipFile(VERSION_0_1 / "adapters.zip") as archive:
    ADAPTERS = json.loads(archive.read("index.json"))


def unpack(name, folder):
    with zipfile.ZipFile(VERSION_0_1 / name) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    return unpack("adapters.zip", tmp_path_factory.mktemp("adapters"))


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """The folder that version 0.1 worked in; its paths are relative to it."""
    monkeypatch.chdir(unpack("runs.zip", tmp_path))
    return tmp_path


def close(got, wanted, tolerance=1e-6):
    """Equal to the bit on the machine that made the files, and within `tolerance` where XLA rounds otherwise."""
    np.testing.assert_allclose(np.asarray(got), wanted, rtol=tolerance, atol=tolerance)


@functools.lru_cache
def load_base(base, **options):
    """A golden model under the options of version 0.1's load_pretrained, and its golden inputs."""
    head = Head(options.pop("head", None), num_labels=options.pop("num_labels", None))
    compute = Compute(scan_layers=options.pop("scan_layers", False))
    model, params = hut_jax.load_pretrained(MODELS / base, head=head, compute=compute, **options)
    return model, params, load_file(MODELS / base / "golden.safetensors")["input_ids"]


def base_of(name, **options):
    return load_base(ADAPTERS[name]["base"], **ADAPTERS[name]["options"] | options)


@functools.partial(jax.jit, static_argnums=0)
def logits_of(model, params, ids):
    return model.apply({"params": params}, ids)


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_merges_as_it_did(name, adapters):
    model, params, ids = base_of(name)
    adapter, factors = hut_jax.load_adapter(adapters / name, params)
    wanted = load_file(adapters / name / "expected.safetensors")
    logits = wanted.pop("logits")
    merged = jax.jit(adapter.merge)(params, factors)
    base = flatten_dict(params, sep="/")
    for path, leaf in flatten_dict(merged, sep="/").items():
        if f"merged/{path}" in wanted:
            close(leaf, wanted.pop(f"merged/{path}"))
        else:
            np.testing.assert_array_equal(leaf, base[path])
    assert not wanted, "parameters that version 0.1 replaced and this one does not"
    close(logits_of(model, merged, ids), logits, 1e-5)
    assert np.abs(logits_of(model, params, ids) - logits).max() > 1e-3


@pytest.mark.full
@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_runs_as_it_did(name, adapters):
    model, params, ids = base_of(name)
    adapter, factors = hut_jax.load_adapter(adapters / name, params)
    got = jax.jit(lambda params, factors, ids: adapter.apply(model, params, factors, ids))(params, factors, ids)
    close(got, load_file(adapters / name / "expected.safetensors")["logits"], 1e-5)


OTHER_LAYOUT = ("hut_block_ranks", "hut_cyclic", "hut_head", "lora_scanned", "lora_ranks_new_head", "ia3", "bitfit")


@pytest.mark.parametrize(
    "name", [*OTHER_LAYOUT[:2], *(pytest.param(name, marks=pytest.mark.full) for name in OTHER_LAYOUT[2:])]
)
def test_an_adapter_fits_the_base_in_the_other_layout(name, adapters):
    """Saved from a scanned model and loaded into one that is not, or the other way round."""
    model, params, ids = base_of(name, scan_layers=not ADAPTERS[name]["options"].get("scan_layers", False))
    adapter, factors = hut_jax.load_adapter(adapters / name, params)
    wanted = load_file(adapters / name / "expected.safetensors")["logits"]
    close(logits_of(model, jax.jit(adapter.merge)(params, factors), ids), wanted, 1e-5)


def e2e_config():
    """The config of the E2E run, as it is written today."""
    config = default_config()
    config.model = "gpt2"
    config.data.update({"dir": "e2e", "cache": "cache", "length_multiple": 256, "slot_multiple": 256})
    set_transform(config, "hut", rank=2)
    config.adapter.targets = ("all-linear",)
    config.adapter.ranks = (("mlp/", 4),)
    config.train.update({"steps": 12, "warmup": 2.0, "learning_rate": 5e-2, "accumulate": 2, "scan_layers": True})
    config.eval.every, config.log.every = 6, 4
    config.checkpoint.update({"every": 6, "keep": 1})
    config.decode.update({"beams": 3, "min_new_tokens": 8, "max_new_tokens": 12})
    config.mesh.data = 1
    return config


def glue_config():
    """The config of the GLUE run, as it is written today."""
    config = default_config("cola")
    config.model = "roberta"
    config.data.update({"dir": "glue", "length_multiple": 64})
    set_transform(config, "lora", rank=2, alpha=4.0)
    config.adapter.also_train = ("^classifier",)
    config.train.update({"steps": 10, "warmup": 0.0, "learning_rate": 0.05, "also_train_learning_rate": 0.05})
    config.eval.every, config.log.every = 5, 4
    config.checkpoint.update({"every": 5, "keep": 1})
    config.mesh.data = 1
    return config


def tensors_of(folder):
    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.full
@pytest.mark.parametrize(("name", "config"), [("e2e", e2e_config), ("glue", glue_config)])
def test_a_stopped_run_resumes_and_ends_as_it_did(name, config, runs):
    stopped, ended = runs / "stopped" / name, runs / "ended" / name
    written = read_metrics(stopped)
    result = train(freeze(config()), stopped)

    lines = read_metrics(stopped)
    assert lines[: len(written)] == written, "the lines of before the stop, with their times: it did not start again"
    expected = read_metrics(ended)
    assert [(line["step"], line["split"]) for line in lines] == [(line["step"], line["split"]) for line in expected]
    close([line["loss"] for line in lines], [line["loss"] for line in expected], 1e-5)
    got, wanted = tensors_of(stopped / "adapter"), tensors_of(ended / "adapter")
    assert got.keys() == wanted.keys()
    for path in wanted:
        close(got[path], wanted[path], 1e-4)
    before = json.loads((ended / "result.json").read_text())
    assert result["base"] == before["base"]
    assert result["trainable"] == before["trainable"]
    assert result["best"]["step"] == before["best"]["step"]
    close(result["metrics"]["loss"], before["metrics"]["loss"], 1e-5)
    # Under the names of today, in what was written before the stop too.
    assert result["score_name"] == {"e2e": "loss", "glue": "score"}[name]
    assert result["score_name"] in result["best"]
    assert result == json.loads((stopped / "result.json").read_text())
    assert all(line.keys() & {"score", "perplexity", "seconds_per_step"} for line in lines)
    assert "headline" not in json.dumps([result, lines])


@pytest.mark.full
def test_a_run_that_had_ended_is_restored_and_stays_as_it_is(runs):
    before = (runs / "ended/glue/metrics.jsonl").read_text(), tensors_of(runs / "ended/glue/adapter")
    train(freeze(glue_config()), runs / "ended/glue")
    assert (runs / "ended/glue/metrics.jsonl").read_text() == before[0]
    after = tensors_of(runs / "ended/glue/adapter")
    assert after.keys() == before[1].keys()
    assert all(np.array_equal(after[path], before[1][path]) for path in after)


def without_java(texts):
    raise e2e.java.Unavailable("the texts matter here, and not their scores")


@pytest.mark.full
def test_the_e2e_run_writes_the_same_texts(runs, monkeypatch):
    monkeypatch.setattr(e2e.java, "tokenize", without_java)
    assert evaluate.main(["--workdir=ended/e2e"]) == 0
    assert (runs / "ended/e2e/test_outputs.txt").read_text() == (runs / "made/texts.txt").read_text()


@pytest.mark.full
def test_the_glue_run_predicts_the_same(runs):
    assert predict.main(["--workdir=ended/glue", "--output=."]) == 0
    assert (runs / "CoLA.tsv").read_text() == (runs / "made/CoLA.tsv").read_text()


@pytest.mark.parametrize("name", [pytest.param("e2e", marks=pytest.mark.full), "glue"])
def test_a_merged_folder_loads_and_is_written_the_same(name, runs):
    made = runs / "made" / f"merged_{name}"
    _, params = hut_jax.load_pretrained(made)
    assert merge.main([f"--workdir=ended/{name}", "--output=merged"]) == 0
    _, again = hut_jax.load_pretrained(runs / "merged")
    wanted, got = flatten_dict(params, sep="/"), flatten_dict(again, sep="/")
    assert got.keys() == wanted.keys()
    for path in wanted:
        close(got[path], wanted[path])
    # Version 0.1 made a tokenizer.json where the base has none. Now the base's tokenizer is left as it is.
    names = {path.name for path in (runs / "merged").iterdir()}
    assert names == {path.name for path in made.iterdir()} - {"tokenizer.json", "tokenizer_config.json"} | {
        path.name for path in (runs / {"e2e": "gpt2", "glue": "roberta"}[name]).glob("tokenizer*.json")
    }
    texts = ["The Alba is a cheap pub.", "a cat </s>", "<|endoftext|>"]
    assert load_tokenizer("merged").encode_batch(texts) == load_tokenizer(made).encode_batch(texts)

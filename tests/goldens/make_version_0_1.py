"""Writes the files of version 0.1 beside this file: what later versions must be able to read.

Run with version 0.1's own code, in a checkout of the commit before `hut_jax/` was sorted into folders:

    PYTHONPATH=. JAX_PLATFORMS=cpu python .../tests/goldens/make_version_0_1.py

`adapters.zip` has for each adapter its folder as `save_adapter` wrote it, and `expected.safetensors`: the parameters
that `merge` replaced, and the logits that `apply` gave. `index.json` lists them, each with its base.

`runs.zip` has a folder to work in, with models and data; the workdirs of two runs stopped half-way (`stopped/`), the
same once they had ended (`ended/`), and what `generate`, `predict` and `merge` made of those (`made/`).
"""

import contextlib
import csv
import json
import os
import shutil
import signal
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from archives import HERE, golden_models, pack
from hut_jax.data.restaurants import write_restaurants
from hut_jax.models.pretrained import init_params, save_pretrained
from hut_jax.targets import flatten
from safetensors.numpy import load_file, save_file

import hut_jax
from hut_jax import generate, merge, predict
from hut_jax.config import default_config, set_transform
from hut_jax.data.tokenizer import load_tokenizer, save_bpe
from hut_jax.data.train_tokenizer import train_bpe
from hut_jax.errors import Interrupted
from hut_jax.models.gpt2 import GPT2, GPT2Config
from hut_jax.models.roberta import Roberta
from hut_jax.models.roberta_config import RobertaConfig
from hut_jax.train import train
from hut_jax.training import Steps

MODELS = golden_models()
OUTPUT = HERE / "version_0_1"

# The base of an adapter: a golden model, and the options of load_pretrained.
GPT2_BASE = {"base": "gpt2_left_padded", "options": {}}
GPT2_SCANNED = {"base": "gpt2_left_padded", "options": {"scan_layers": True}}
ENCODER = {"base": "roberta_classification", "options": {}}
ENCODER_SCANNED = {"base": "roberta_classification", "options": {"scan_layers": True}}
NEW_HEAD = {"base": "roberta_mlm", "options": {"head": "classification", "num_labels": 2, "draw": False}}
HEAD = "^(classifier|pooler)"


def adapters() -> dict[str, tuple[dict, hut_jax.Adapter]]:
    """Each adapter by name, with the base that it was saved from."""
    HUT, LoRA = hut_jax.HUT, hut_jax.LoRA
    Adapter = hut_jax.Adapter
    return {
        "hut_block": (GPT2_BASE, Adapter(HUT(rank=2))),
        "hut_block_all_linear": (GPT2_SCANNED, Adapter(HUT(rank=4), "all-linear", exclude="attention/out$")),
        "hut_block_bare": (GPT2_BASE, Adapter(HUT(rank=1, scale=False, shift=False), "all-linear")),
        "hut_block_ranks": (
            GPT2_BASE,
            Adapter(HUT(rank=2, scale=False), ("mlp/", "attention/query$"), ranks={"mlp/": 4}),
        ),
        "hut_cyclic": (GPT2_SCANNED, Adapter(HUT(rank=3, spread="cyclic"))),
        "hut_cyclic_bare": (ENCODER, Adapter(HUT(rank=4, spread="cyclic", scale=False, shift=False))),
        "hut_layout": (GPT2_BASE, Adapter(HUT(rank=2), "mlp/down$", layout={"mlp/down$": "io"})),
        "hut_head": (ENCODER_SCANNED, Adapter(HUT(rank=2), also_train=HEAD)),
        "lora": (GPT2_BASE, Adapter(LoRA(rank=2))),
        "lora_scanned": (GPT2_SCANNED, Adapter(LoRA(rank=3, rs=True, dropout=0.1), "all-linear", exclude="mlp/up$")),
        "lora_ranks_new_head": (NEW_HEAD, Adapter(LoRA(rank=2), "attention/", ranks={"key$": 3}, also_train=HEAD)),
        "lora_plus": (ENCODER, Adapter(hut_jax.LoRAPlus(rank=2, ratio=8.0))),
        "dora": (GPT2_SCANNED, Adapter(hut_jax.DoRA(rank=2, alpha=4.0))),
        "hira": (GPT2_BASE, Adapter(hut_jax.HiRA(rank=3))),
        "loha": (ENCODER_SCANNED, Adapter(hut_jax.LoHa(rank=2, alpha=3.0))),
        "ia3": (GPT2_BASE, Adapter(hut_jax.IA3())),
        "ia3_encoder": (ENCODER_SCANNED, Adapter(hut_jax.IA3(), also_train=HEAD)),
        "ssf": (GPT2_SCANNED, Adapter(hut_jax.SSF())),
        "bitfit": (ENCODER, Adapter(hut_jax.BitFit())),
        "layernorm": (GPT2_SCANNED, Adapter(hut_jax.LayerNorm())),
        "full": (ENCODER, Adapter(hut_jax.Full(), ("layer_1/", HEAD))),
    }


def write_adapters(folder: Path) -> None:
    """Each adapter with random factors, and what it computes."""
    index = {}
    for number, (name, (base, adapter)) in enumerate(adapters().items()):
        model, params = hut_jax.load_pretrained(MODELS / base["base"], **base["options"])
        factors = adapter.init(jax.random.key(number), params)
        random = np.random.default_rng(number)
        factors = jax.tree.map(lambda leaf, draw=random: leaf + 0.1 * draw.standard_normal(leaf.shape), factors)
        factors = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), factors)
        hut_jax.save_adapter(folder / name, adapter, factors, params, base_name=base["base"])
        merged = flatten(adapter.merge(params, factors))
        tensors = {f"merged/{path}": np.asarray(merged[path]) for path in adapter.leaves(params)}
        ids = load_file(MODELS / base["base"] / "golden.safetensors")["input_ids"]
        tensors["logits"] = np.asarray(adapter.apply(model, params, factors, jnp.asarray(ids)))
        save_file(tensors, folder / name / "expected.safetensors")
        index[name] = base
    (folder / "index.json").write_text(json.dumps(index, indent=2) + "\n")


def write_models() -> None:
    """A GPT-2 and a RoBERTa, small and random, with one small vocabulary; and data for each of them."""
    write_restaurants("e2e", seed=0, train=8, validation=2, test=2)
    with open("e2e/trainset.csv", encoding="utf-8", newline="") as file:
        Path("texts.txt").write_text("\n".join(row["ref"] for row in csv.DictReader(file)), encoding="utf-8")
    vocab, merges = train_bpe(["texts.txt"], 400)
    Path("texts.txt").unlink()

    small = {"n_positions": 256, "n_embd": 12, "n_layer": 2, "n_head": 2}
    gpt2 = GPT2(GPT2Config(vocab_size=len(vocab), bos_token_id=0, eos_token_id=0, **small))
    save_pretrained("gpt2", gpt2, lively(init_params(gpt2, jax.random.key(3))))
    save_bpe("gpt2", vocab, merges)
    load_tokenizer("gpt2").save("gpt2")

    names = ["<s>", "<pad>", "</s>", "<unk>", *sorted(vocab, key=vocab.__getitem__), "<mask>"]
    config = RobertaConfig(
        model_type="roberta",
        vocab_size=len(names),
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=66,
        type_vocab_size=1,
    )
    save_pretrained("roberta", Roberta(config), lively(init_params(Roberta(config), jax.random.key(4))))
    Path("roberta/vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    shutil.copy("gpt2/merges.txt", "roberta/merges.txt")

    Path("glue/CoLA").mkdir(parents=True)
    words = ["the", "cat", "sat", "on", "a", "mat", "while", "rain", "fell", "all", "day", "and", "nobody", "came"]
    texts = [" ".join(words[(i * 5 + j) % len(words)] for j in range(3 + i % 6)) for i in range(24)]
    for split, count in (("train", 24), ("dev", 10)):
        rows = [f"gj04\t{i % 2}\t{'' if i % 2 else '*'}\t{text}" for i, text in enumerate(texts[:count])]
        Path(f"glue/CoLA/{split}.tsv").write_text("\n".join(rows) + "\n")
    test = ["index\tsentence", *(f"{i}\t{text}" for i, text in enumerate(texts[:8]))]
    Path("glue/CoLA/test.tsv").write_text("\n".join(test) + "\n")


def lively(params: dict) -> dict:
    """Kernels and embeddings ten times as large as they are drawn: a model that tells one input from another."""
    return jax.tree.map(lambda leaf: 10 * leaf if leaf.ndim > 1 else leaf, params)


def e2e_config():
    """HUT on every kernel of scanned layers, twelve steps of two batches each."""
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
    """LoRA with a new head on the made-up CoLA, ten steps."""
    config = default_config()
    config.task, config.model = "cola", "roberta"
    config.data.update({"dir": "glue", "length_multiple": 64, "slot_multiple": 64})
    set_transform(config, "lora", rank=2, alpha=4.0)
    config.adapter.also_train = ("^classifier",)
    config.train.update({"steps": 10, "warmup": 0.0, "learning_rate": 0.05, "also_train_learning_rate": 0.05})
    config.eval.every, config.log.every = 5, 4
    config.checkpoint.update({"every": 5, "keep": 1})
    config.mesh.data = 1
    return config


@contextlib.contextmanager
def stopped_in_step(number: int):
    """SIGTERM comes while this process trains its step of that number."""
    original, done = Steps.train, []

    def watched(self, *args):
        done.append(None)
        if len(done) == number:
            signal.raise_signal(signal.SIGTERM)
        return original(self, *args)

    Steps.train = watched
    try:
        yield
    finally:
        Steps.train = original


def write_runs() -> None:
    """Models, data and runs, in the working directory."""
    write_models()
    for name, config, stop in (("e2e", e2e_config(), 7), ("glue", glue_config(), 6)):
        workdir = Path("run") / name
        try:
            with stopped_in_step(stop):
                train(config, workdir)
        except Interrupted as stopped:
            print(stopped)
        copy_workdir(workdir, Path("stopped") / name)
        train(config, workdir)
        copy_workdir(workdir, Path("ended") / name)

    made = Path("made")
    made.mkdir()
    with open("e2e/testset_w_refs.csv", encoding="utf-8", newline="") as file:
        mrs = dict.fromkeys(row["mr"] for row in csv.DictReader(file))
    (made / "mrs.txt").write_text("".join(f"{mr}\n" for mr in mrs), encoding="utf-8")
    generate.main(["--workdir=ended/e2e", "--input=made/mrs.txt", "--output=made/texts.txt"])
    predict.main(["--workdir=ended/glue", "--output=made"])
    for name in ("e2e", "glue"):
        merge.main([f"--workdir=ended/{name}", f"--output=made/merged_{name}"])
    shutil.rmtree("run")
    shutil.rmtree("cache")


def copy_workdir(workdir: Path, to: Path) -> None:
    """All but TensorBoard's events, whose names hold the machine's, and the folder's own place on it."""
    shutil.copytree(workdir, to, ignore=shutil.ignore_patterns("tensorboard"))
    for note in to.rglob("commit_success.txt"):  # Orbax looks for the file alone
        note.write_text(note.read_text().replace(f"{Path.cwd()}/", ""))


def main() -> None:
    OUTPUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_adapters(folder / "adapters")
        pack(folder / "adapters", OUTPUT / "adapters.zip")
        (folder / "runs").mkdir()
        os.chdir(folder / "runs")
        write_runs()
        pack(folder / "runs", OUTPUT / "runs.zip")
        os.chdir("/")


if __name__ == "__main__":
    main()

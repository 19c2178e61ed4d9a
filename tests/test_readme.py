"""README: its loop trains, its commands run, and its figures are those of the records."""

import json
import re
import shlex
import shutil
from pathlib import Path
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from benchmarks import methods
from experiments.analysis import at_best_learning_rates, p_value, paired, select, to_frame
from experiments.pictures import rank_picture
from experiments.results import read_study
from hut_jax import evaluate, generate, merge, predict, quickstart, train
from hut_jax.quickstart import Figures, reaches_goal

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "README.md").read_text()
COMMANDS = [
    *re.findall(r"^    (?:git|make|pip|python) .*?(?= +#|$)", PAGE, re.MULTILINE),
    *re.findall(r"`(python -m .*?)`", PAGE),
]
NOT_RUN = {
    "git clone https://github.com/hut-jax/hut_jax && cd hut_jax": "needs the network",
    "make quickstart": "installs; tests/test_quickstart.py runs what it then starts",
    "pip install .": "installs",
    'pip install "jax[cuda12]" && pip install .': "needs a GPU",
    "python -m benchmarks.methods": "tests/test_benchmarks.py runs it on a small model",
    "python -m experiments.rank_ablation --config=configs/quickstart.py": "as does test_rank_ablation.py",
}


def test_the_page_is_short():
    assert len(PAGE.splitlines()) <= 150


@pytest.mark.full
def test_its_loop_trains_a_model_that_knows_nothing_of_the_library(tmp_path, monkeypatch):
    """The lines of the page, to the letter. The control is the base's loss."""
    monkeypatch.chdir(tmp_path)
    code, others = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {"__name__": "page"}
    exec(code, names)
    x, y, params, merged = names["x"], names["y"], names["params"], names["merged"]
    plain = names["model"].apply({"params": merged}, x)
    base = names["model"].apply({"params": params}, x)
    right = [float((logits.argmax(axis=1) == y).mean()) for logits in (plain, base)]
    assert right[0] > 0.9 > 0.5 > right[1]
    adapted = names["adapter"].apply(names["model"], params, names["factors"], x)
    assert jnp.allclose(plain, adapted, rtol=1e-4, atol=1e-4)
    assert sorted(path.name for path in Path("adapter").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    assert jax.tree.structure(merged) == jax.tree.structure(params)

    def plain_loss(params, x, y):
        return (names["model"].apply({"params": params}, x) ** 2).mean()

    def nnx_loss(model, x, y):
        return (model(x) ** 2).mean()

    nnx_model = nnx.Sequential(nnx.Linear(16, 64, rngs=nnx.Rngs(0)), nnx.gelu, nnx.Linear(64, 4, rngs=nnx.Rngs(1)))
    names |= {"nnx": nnx, "nnx_model": nnx_model, "nnx_loss": nnx_loss, "plain_loss": plain_loss}
    for part in others.split("\n\n"):
        exec(part, names)
        assert all(leaf.any() for leaf in jax.tree.leaves(names["gradients"]))


def test_every_command_is_run_here_or_the_list_says_why_not():
    commands = [command.strip() for command in COMMANDS]
    assert NOT_RUN.keys() <= set(commands)
    run = [command for command in commands if command not in NOT_RUN]
    assert [shlex.split(command)[2] for command in run] == [
        "hut_jax.train", "hut_jax.evaluate", "hut_jax.generate", "hut_jax.merge", "hut_jax.train", "hut_jax.predict",
    ]  # fmt: skip


def arguments_of(module, number=0):
    """The arguments of a module's command on the page."""
    found = [shlex.split(command) for command in COMMANDS if f"-m hut_jax.{module} " in command]
    return [argument.replace("=configs/", f"={ROOT}/configs/") for argument in found[number][3:]]


@pytest.mark.full
def test_the_commands_train_evaluate_write_and_merge(small_model, small_data, tmp_path, monkeypatch):
    """At the size of a random GPT-2 of two layers: where the page downloads, folders are named as it says."""
    monkeypatch.chdir(tmp_path)
    here = [
        f"--config.model={small_model}", f"--config.tokenizer={small_model}", f"--config.data.dir={small_data}",
        f"--config.data.cache={small_data / 'cache'}", "--config.data.length_multiple=192", "--config.mesh.data=1",
        "--config.data.slot_multiple=80", "--config.train.steps=4", "--config.train.warmup=1",
    ]  # fmt: skip
    train_arguments = [*arguments_of("train"), *here]
    assert train.main(train_arguments) == 0
    assert train.main(train_arguments) == 0
    (tmp_path / "mrs.txt").write_text("name[The Mill], food[Italian]\n")
    small = ["--config.decode.beams=2", "--config.decode.max_new_tokens=4"]
    assert evaluate.main([*arguments_of("evaluate"), *small]) == 0
    assert generate.main([*arguments_of("generate"), *small]) == 0
    assert len((tmp_path / "texts.txt").read_text().splitlines()) == 1
    assert merge.main(arguments_of("merge")) == 0
    assert (tmp_path / "merged/model.safetensors").exists()


@pytest.mark.full
def test_the_commands_of_a_task_train_and_predict(small_encoder, glue_with_test, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = [argument.replace(":mrpc", ":rte") for argument in arguments_of("train", 1)]
    here = [f"--config.model={small_encoder}", f"--config.data.dir={glue_with_test}", "--config.mesh.data=1",
            "--config.data.length_multiple=64", "--config.data.max_length=64", "--config.train.steps=2"]  # fmt: skip
    assert train.main([*command, *here]) == 0
    assert predict.main(arguments_of("predict")) == 0
    assert (tmp_path / "predictions/RTE.tsv").exists()


@pytest.fixture
def glue_with_test(small_glue, tmp_path):
    """The made-up RTE with a test split, which has no labels."""
    folder = Path(shutil.copytree(small_glue, tmp_path / "glue"))
    rows = [line.rsplit("\t", 1)[0] for line in (folder / "RTE/dev.tsv").read_text().splitlines()]
    (folder / "RTE/test.tsv").write_text("\n".join(rows) + "\n")
    return folder


def test_what_the_quickstart_prints_is_that_of_the_record():
    record = json.loads((ROOT / "results/quickstart.json").read_text())
    (printed,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    first = record["seeds"]["0"]
    assert quickstart.table({name: Figures(**values) for name, values in first["models"].items()}) in printed
    assert f"{first['trainable']:,} of {first['total']:,} parameters train" in printed
    assert f"Trained for {first['seconds']:.0f} s" in printed
    assert record["seeds"].keys() == {"0", "1", "2"}
    for seed in record["seeds"].values():
        assert reaches_goal(*(Figures(**values) for values in seed["models"].values()))
        assert seed["seconds"] <= 90


def test_the_table_of_the_methods_is_that_of_the_record():
    record = json.loads((ROOT / "results/methods.json").read_text())
    table, _ = methods.table(record).rsplit("\n\n", 1)
    assert f"\n{table}\n" in PAGE
    assert f"{record['batch']} x {record['length']} tokens" in PAGE
    assert "AMD EPYC, avx512f" in record["device"]


@pytest.mark.full
def test_the_picture_of_the_ranks_is_drawn_from_the_record(tmp_path):
    """As far as points lie where they lay: another Matplotlib may draw letters otherwise."""

    def points(picture):
        used = ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}use")
        return [float(one.get(axis)) for one in used for axis in "xy" if one.get(axis)]

    runs = to_frame(read_study(ROOT / "results/quickstart_ranks.jsonl"))
    rank_picture(runs, tmp_path / "rank")
    shown = points(ROOT / "docs/pictures/quickstart_rank.svg")
    assert points(tmp_path / "rank.svg") == pytest.approx(shown, abs=2.0)
    rank_picture(runs.assign(score=runs["score"] ** 2), tmp_path / "other")
    assert points(tmp_path / "other.svg") != pytest.approx(shown, abs=2.0)


def test_what_the_page_says_against_hut_is_what_the_studies_found():
    """The words have no figures: the signs and the p of HUT minus LoRA at rank 8, more is better."""
    found = {}
    for study in ("minilm_cola", "minilm_stsb", "minilm_mrpc", "minilm_sst2", "e2e_books"):
        runs = to_frame(read_study(ROOT / f"results/{study}.jsonl"))
        runs = at_best_learning_rates(select(runs, plain=True, ranks=[8]))
        better = paired(runs, "HUT, r = 8", "lora") * (1 if runs["maximize"].all() else -1)
        found[study] = better.mean(), p_value(better)
    assert "behind it on SST-2, on par on STS-B,\n  MRPC and E2E, ahead on CoLA by what three seeds" in PAGE
    assert found["minilm_sst2"][0] < 0 < found["minilm_cola"][0]
    assert 0.05 / 40 < found["minilm_cola"][1] < 0.05 < found["minilm_sst2"][1] < 0.1
    assert all(found[study][1] > 0.2 for study in ("minilm_stsb", "minilm_mrpc", "e2e_books"))


def test_every_page_of_docs_is_in_the_table_of_pages():
    for page in (ROOT / "docs").glob("*.md"):
        assert f"](docs/{page.name})" in PAGE
    for picture in re.findall(r'src="([^"]+)"', PAGE):
        assert (ROOT / picture).exists()


def test_what_the_page_offers_is_supported():
    project = (ROOT / "pyproject.toml").read_text()
    assert 'requires-python = ">=3.11"' in project
    assert "Python :: 3.13" in project
    assert "jax>=0.10.2 " in (ROOT / "requirements.txt").read_text()

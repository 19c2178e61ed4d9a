"""The command from end to end on a small model: what it writes, how it resumes, what it refuses."""

import gc
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hut_jax.adapters.files import load_adapter
from hut_jax.adapters.fingerprint import fingerprint
from hut_jax.config import freeze, set_task, set_transform, to_json
from hut_jax.core import cli
from hut_jax.core.errors import Diverged, UserError
from hut_jax.core.files import write_json
from hut_jax.models.hub.pretrained import load_pretrained
from hut_jax.runs.machine import commit, peak_bytes
from hut_jax.runs.workdir import check_workdir, use_workdir
from hut_jax.train import main, train
from hut_jax.training.checkpoint import Checkpoints
from hut_jax.training.log import read_metrics
from hut_jax.training.steps import Steps

ROOT = Path(__file__).parent.parent


def factors_of(workdir):
    return load_file(workdir / "adapter" / "adapter_model.safetensors")


def losses_of(workdir):
    return [{key: line[key] for key in ("step", "split", "loss")} for line in read_metrics(workdir)]


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_from_end_to_end(finished, small_config):
    result = json.loads((finished / "result.json").read_text())
    assert {path.name for path in finished.iterdir()} == {
        ".lock", "config.json", "metrics.jsonl", "tensorboard", "checkpoints", "adapter", "result.json",
    }  # fmt: skip
    lines = read_metrics(finished)
    assert [line["step"] for line in lines if line["split"] == "validation"] == [0, 6, 12]
    assert [line["step"] for line in lines if line["split"] == "train"] == [2, 4, 6, 8, 10, 12]
    assert result["metrics"]["loss"] < lines[0]["loss"]
    assert result["best"]["step"] == 12
    assert 0 < result["peak_bytes"] <= peak_bytes()
    assert result["command"] == ""  # it was called from here
    assert result["commit"] == commit()
    assert {"jax", "flax", "transformers", "tokenizers", "python", "hut_jax"} <= result["versions"].keys()
    rates = [line["learning_rate"] for line in lines if line["split"] == "train"]
    assert rates == pytest.approx([0.01, 0.018, 0.014, 0.01, 0.006, 0.002])  # a warm-up of 2 steps, 12 in all
    (events,) = (finished / "tensorboard").iterdir()
    scalars = "train/loss", "train/learning_rate", "validation/loss"
    assert all(name.encode() in events.read_bytes() for name in scalars)

    adapter, factors = load_adapter(finished / "adapter")
    assert adapter.transform.rank == 2
    assert result["trainable"] == sum(leaf.size for leaf in factors_of(finished).values())
    assert any(leaf.any() for leaf in factors_of(finished).values())
    _, params = load_pretrained(small_config.model)
    assert result["base"]["fingerprint"] == fingerprint(params)
    assert adapter.count(params).trainable == result["trainable"]
    assert set(factors) == {"layer_0", "layer_1"}
    saved = [path for path in (finished / "checkpoints/step_12").rglob("*") if path.is_file()]
    assert (
        sum(path.stat().st_size for path in saved) < (Path(small_config.model) / "model.safetensors").stat().st_size / 2
    )


def test_a_run_that_is_stopped_and_loses_its_last_checkpoint_ends_with_the_same_bits(
    finished, config_file, small_config, tmp_path, monkeypatch, capsys
):
    """A signal stops it after step 5; the same command resumes it from step 3. The base is only read."""
    base = files_of(Path(small_config.model))
    train_step, steps = Steps.train, []

    def interrupted(self, state, *args):
        steps.append(int(state.step))
        if steps == [0, 1, 2, 3, 4]:
            signal.raise_signal(signal.SIGTERM)
        return train_step(self, state, *args)

    run = tmp_path / "run"
    monkeypatch.setattr(sys, "argv", ["train", f"--config={config_file}", f"--workdir={run}"])
    monkeypatch.setattr(Steps, "train", interrupted)
    with pytest.raises(SystemExit) as ended:
        cli.run(main)
    assert ended.value.code == 143
    assert "SIGTERM: stopped after step 5 and saved; the same command resumes it" in capsys.readouterr().err
    assert not (run / "result.json").exists()
    for path in (run / "checkpoints/step_5/progress").rglob("*"):
        path.write_text("")
    with pytest.raises(SystemExit) as ended:
        cli.run(main)
    assert ended.value.code == 0
    assert steps == [*range(5), *range(3, 12)]
    assert same(factors_of(run), factors_of(finished))
    assert losses_of(run) == losses_of(finished)
    out = capsys.readouterr().out
    assert "the checkpoint of step 5 is damaged" in out
    assert "done: validation loss" in out
    assert f"in {run}/adapter; all figures in {run}/result.json" in out
    result = json.loads((run / "result.json").read_text())
    assert result["command"] == f"python -m hut_jax.train --config={config_file} --workdir={run}"
    assert files_of(Path(small_config.model)) == base


@pytest.mark.full
def test_another_seed_gives_other_bits(finished, small_config, tmp_path):
    small_config.seed = 1
    train(freeze(small_config), tmp_path / "run")
    assert not same(factors_of(tmp_path / "run"), factors_of(finished))


@pytest.mark.full
def test_a_run_may_begin_with_its_first_step(small_config, tmp_path):
    small_config.eval.on_start = False
    small_config.train.steps = 1
    train(freeze(small_config), tmp_path / "run")
    assert [(line["split"], line["step"]) for line in read_metrics(tmp_path / "run")] == [
        ("train", 1), ("validation", 1),
    ]  # fmt: skip
    assert json.loads((tmp_path / "run/result.json").read_text())["best"]["step"] == 1


@pytest.mark.full
def test_accumulation_takes_its_parts_from_the_data(small_config, tmp_path):
    """Twice as many batches of half the size: 48 examples are two epochs in 12 steps either way."""
    small_config.train.accumulate = 2
    train(freeze(small_config), tmp_path / "run")
    progress = (tmp_path / "run/checkpoints/step_12/progress/metadata").read_text()
    assert json.loads(progress)["progress"]["data"]["next_index"] == 24


def test_a_base_whose_weights_changed_is_refused(run, small_config, tmp_path):
    small_config.model = str(in_a_copy(small_config.model, tmp_path, lambda folder: None))
    (run / "config.json").write_text(to_json(freeze(small_config)))
    tensors = load_file(Path(small_config.model) / "model.safetensors")
    tensors["transformer.wpe.weight"] = tensors["transformer.wpe.weight"] + 1
    save_file(tensors, Path(small_config.model) / "model.safetensors")
    with pytest.raises(UserError, match="has other weights"):
        train(freeze(small_config), run)


def test_attention_that_the_machine_cannot_have_is_refused_and_leaves_nothing(small_config, tmp_path):
    small_config.train.attention = "cudnn"
    with pytest.raises(UserError, match=r"attention 'cudnn' runs on NVIDIA GPUs, and JAX runs on cpu here"):
        train(freeze(small_config), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_damaged_config_is_one_line(run, small_config):
    for text in ("[1]", "{", "null"):
        (run / "config.json").write_text(text)
        with pytest.raises(UserError, match=r"config.json is damaged"):
            train(freeze(small_config), run)


@pytest.mark.full
def test_a_run_passes_over_a_damaged_checkpoint_and_ends_with_the_same_bits(finished, run, small_config, capsys):
    (run / "result.json").unlink()
    for path in (run / "checkpoints/step_12/progress").rglob("*"):
        path.write_text("")
    train(freeze(small_config), run)
    assert "the checkpoint of step 12 is damaged" in capsys.readouterr().out
    assert same(factors_of(run), factors_of(finished))
    assert losses_of(run) == losses_of(finished)


def last_checkpoint(workdir):
    """The step of the last whole checkpoint; -1 where there is none."""
    return max((int(path.name.split("_")[1]) for path in workdir.glob("checkpoints/step_*[0-9]")), default=-1)


class Command:
    """The command as a process of its own."""

    def __init__(self, config_file, workdir):
        self.workdir = workdir
        self._arguments = [sys.executable, "-m", "hut_jax.train", f"--config={config_file}", f"--workdir={workdir}"]

    def start(self):
        return subprocess.Popen(
            self._arguments,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )

    def stopped_by(self, number):
        """Its exit code and stderr, once it was sent the signal while it trained."""
        log = self.workdir / "metrics.jsonl"
        with self.start() as process:
            while process.poll() is None and not (log.exists() and '"train"' in log.read_text()):
                time.sleep(0.01)
            process.send_signal(number)
            _, error = process.communicate(timeout=60)
        return process.returncode, error

    def finished(self):
        with self.start() as process:
            _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error


@pytest.mark.full
def test_ctrl_c_saves_and_the_same_command_resumes(config_file, finished, tmp_path):
    command = Command(config_file, tmp_path / "broken")
    code, error = command.stopped_by(signal.SIGINT)
    assert code == 130
    assert "SIGINT: stopped after step" in error
    assert "and saved; the same command resumes it" in error
    assert not (tmp_path / "broken" / "result.json").exists()
    command.finished()
    assert same(factors_of(tmp_path / "broken"), factors_of(finished))
    assert losses_of(tmp_path / "broken") == losses_of(finished)


def test_a_second_run_in_the_same_workdir_is_refused(small_config, tmp_path):
    with use_workdir(tmp_path / "run"), pytest.raises(UserError, match=r"another process trains in .*run; wait for it"):
        train(freeze(small_config), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    check_workdir(tmp_path / "run", freeze(small_config))  # free again


# Orbax leaves the writes that were under way when one failed to the garbage collector.
@pytest.mark.full
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("last", ["adapter", "checkpoint"])
@pytest.mark.usefixtures("capsys")  # keeps what is printed in memory: in pytest's file it would count, too
def test_a_full_disk_stops_the_run_and_leaves_the_last_checkpoint(last, small_config, tmp_path, monkeypatch):
    """As near as a test comes to it: after the checkpoint at 3 the process may write no file as large as the next."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    save = Checkpoints.save

    def save_and_fill_up(self, step, state, progress):
        save(self, step, state, progress)
        if step == 3:
            self.wait()
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))

    small_config.eval.every = 6 if last == "adapter" else 12
    monkeypatch.setattr(Checkpoints, "save", save_and_fill_up)
    try:
        with pytest.raises(UserError, match=rf"{last} could not be written to .*run/{last}"):
            train(freeze(small_config), tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    monkeypatch.setattr(Checkpoints, "save", save)
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").glob("step_?")) == ["step_0", "step_3"]
    gc.collect()
    train(freeze(small_config), tmp_path / "run")
    assert (tmp_path / "run/result.json").exists()


@pytest.mark.full
def test_kills_at_random_instants_change_no_bit(config_file, small_config, tmp_path):
    """One run, killed HUT_JAX_KILLS times, or 10: in turns while it starts and soon after a checkpoint."""
    kills = int(os.environ.get("HUT_JAX_KILLS", "10"))
    # Far more steps than it can do between the kills, so that all of them hit the one run.
    small_config.train.steps, small_config.checkpoint.every, small_config.eval.every = 50 * kills, 10, 25 * kills
    config_file.with_name("config.json").write_text(to_json(freeze(small_config)))
    train(freeze(small_config), tmp_path / "unbroken")
    command = Command(config_file, tmp_path / "broken")
    random, starting, reached = np.random.default_rng(0), 0.0, []
    for kill in range(kills):
        began, before = time.monotonic(), last_checkpoint(command.workdir)
        with command.start() as process:
            if kill % 2:
                time.sleep(random.uniform(0.1, 1.0) * starting)
            else:
                while process.poll() is None and last_checkpoint(command.workdir) <= before:
                    time.sleep(0.01)
                starting = time.monotonic() - began
                time.sleep(random.uniform(0.0, 0.3))
            process.kill()
        reached.append(last_checkpoint(command.workdir))
    assert not (command.workdir / "result.json").exists()
    assert len(set(reached)) >= kills // 2  # each start resumed the run
    command.finished()
    assert same(factors_of(command.workdir), factors_of(tmp_path / "unbroken"))
    assert losses_of(command.workdir) == losses_of(tmp_path / "unbroken")
    assert {path.name for path in command.workdir.iterdir()} == {
        path.name for path in (tmp_path / "unbroken").iterdir()
    }


def test_a_finished_run_begun_again_changes_nothing(finished, run, small_config):
    first = json.loads((finished / "result.json").read_text())
    write_json(run / "result.json", first | {"test": {"bleu": 0.5}, "peak_bytes": 5})  # as `evaluate` adds
    (run / ".adapter-x.partial").mkdir()  # what a killed process had begun to write
    (run / "adapter/.adapter_model.safetensors.1.partial").write_text("half")
    again = train(freeze(small_config), run)
    assert again["metrics"] == first["metrics"]
    assert again["peak_bytes"] == 5  # of when it trained
    assert json.loads((run / "result.json").read_text()) == again | {"test": {"bleu": 0.5}}
    assert again["best"] == first["best"]
    assert same(factors_of(run), factors_of(finished))
    assert read_metrics(run) == read_metrics(finished)
    assert [path.name for path in run.glob(".*")] == [".lock"]
    assert not list((run / "adapter").glob(".*"))


def test_another_config_in_the_same_workdir_is_refused(run, small_config):
    small_config.train.learning_rate = 0.5
    small_config.adapter.rank = 4
    with pytest.raises(UserError, match=r"adapter.rank is 4 and was 2; train.learning_rate is 0.5 and was 0.02"):
        train(freeze(small_config), run)


@pytest.mark.full
def test_a_last_step_that_breaks_the_model_stops_the_run(small_config, tmp_path):
    small_config.train.steps = 1
    small_config.train.learning_rate = 1e30
    small_config.train.warmup = 0.0
    small_config.train.decay = "constant"
    with pytest.raises(Diverged, match=r"step 1: the validation loss is nan; .*config.train.learning_rate"):
        train(freeze(small_config), tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.full
def test_a_loss_that_is_not_finite_stops_the_run(small_config, tmp_path):
    small_config.train.learning_rate = 1e30
    small_config.train.warmup = 0.0
    small_config.train.clip = 0.0
    with pytest.raises(UserError, match=r"step \d+: the loss is (nan|inf).*config.train.learning_rate"):
        train(freeze(small_config), tmp_path / "run")
    assert all(np.isfinite(leaf).all() for leaf in factors_of(tmp_path / "run").values())
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.full
def test_language_modelling_from_random_weights(small_config, small_model, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and the dog sat on the cat.\n" * 200)
    set_task(small_config, "lm")
    small_config.init = "random"
    small_config.data.text = str(text)
    small_config.data.block = 32
    small_config.data.holdout = 0.1
    set_transform(small_config, "full")
    small_config.train.learning_rate = 2e-2
    result = train(freeze(small_config), tmp_path / "run")
    assert result["trainable"] == result["total"]
    assert result["metrics"]["loss"] < 7.0 < read_metrics(tmp_path / "run")[0]["loss"]  # ln 2048 is 7.6


def in_a_copy(source, tmp_path, change):
    """A changed copy of a folder."""
    folder = tmp_path / "changed"
    shutil.copytree(source, folder)
    change(folder)
    return folder


def rewrite(name, text):
    return lambda folder: (folder / name).write_text(text)


def cut(name, size):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def set_in_config(**values):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def drop_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("transformer.h.1.mlp.c_fc.weight")
    save_file(tensors, folder / "model.safetensors")


# What is wrong, how it is made (a change to a copy of the model or the data, or arguments), what the line says.
BAD_INPUT = [
    ("a rank that does not divide", ["--config.adapter.rank=3"], "rank 3 does not divide .* ranks that do: 2, 4"),
    ("a pattern that matches nothing", ["--config.adapter.targets=atention/query$"], "mean 'layer_0/attention/query'"),
    ("a pattern that is none", ["--config.adapter.targets=("], "is not a regular expression"),
    ("a misspelt field", ["--config.train.stps=3"], "config.train.stps; did you mean 'train.steps'"),
    ("an unknown task", ["--config.task=e2"], "config.task is 'e2'; did you mean 'e2e'"),
    (
        "a warm-up longer than the run",
        ["--config.train.steps=0", "--config.train.epochs=1", "--config.train.warmup=7"],
        "warmup is 7 steps and the run has 6",
    ),
    ("ranks that are no pairs", ["--config.adapter.ranks=(3,)"], "must be pairs of a text and a whole number"),
    ("a rate that is not finite", ["--config.train.learning_rate=inf"], "learning_rate is inf; it must be finite"),
    ("a seed out of range", ["--config.seed=-1"], "config.seed is -1; it must be at least 0"),
    ("a workdir that is a file", ["--workdir={file}"], "workdir .* cannot be written: Not a directory"),
    ("a missing model folder", ["--config.model=./nowhere/model"], "no such folder: ./nowhere/model"),
    ("a missing data folder", ["--config.data.dir=./nowhere"], "no folder 'nowhere'; give one with trainset.csv"),
    ("a missing tokenizer", ["--config.tokenizer=./nowhere"], "nowhere"),
    ("a workdir under a file", ["--workdir={file}/run"], "workdir .* cannot be written: Not a directory"),
    ("a workdir that is not to be made", ["--workdir=/proc/run"], "workdir .* cannot be written"),
    ("a CSV without its columns", ("data", rewrite("trainset.csv", "meaning,text\na,b\n")), r"trainset.csv.*'?mr'?"),
    ("an empty CSV", ("data", rewrite("devset.csv", "")), "devset.csv.*empty"),
    ("a CSV of a header alone", ("data", rewrite("devset.csv", "mr,ref\n")), "devset.csv"),
    ("a missing CSV", ("data", lambda folder: (folder / "devset.csv").unlink()), "devset.csv"),
    ("a ragged CSV", ("data", rewrite("devset.csv", "mr,ref\na,b\na,b,c\n")), "devset.csv.*line 3|devset.csv:3"),
    ("truncated weights", ("model", cut("model.safetensors", 1000)), "not a whole safetensors file"),
    ("empty weights", ("model", cut("model.safetensors", 0)), "not a whole safetensors file"),
    ("a missing tensor", ("model", drop_tensor), "1 missing: .*h.1.mlp.c_fc.weight"),
    ("another family's config", ("model", set_in_config(model_type="falcon")), "'falcon' is not supported"),
    ("a config that is no JSON", ("model", rewrite("config.json", "{")), "config.json"),
    ("a model too short for the data", ("model", set_in_config(n_positions=16)), "the model takes at most 16"),
    ("a vocabulary too small", ("model", set_in_config(vocab_size=100)), "2,048 tokens, .* vocabulary of 100"),
    ("more beams than tokens", ["--config.decode.beams=3000"], "config.decode: 3000 beams are more than"),
]  # fmt: skip


@pytest.mark.parametrize(("made", "message"), [case[1:] for case in BAD_INPUT], ids=[case[0] for case in BAD_INPUT])
def test_bad_input_is_one_line_and_leaves_nothing(
    made, message, config_file, small_config, tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").write_text("")
    if isinstance(made, tuple):
        what, change = made
        source = {"model": small_config.model, "data": small_config.data.dir}[what]
        field = {"model": "model", "data": "data.dir"}[what]
        made = [f"--config.{field}={in_a_copy(source, tmp_path, change)}", f"--config.data.cache={tmp_path / 'cache'}"]
    arguments = [argument.format(file=tmp_path / "file") for argument in made]
    workdir = (
        [] if any(argument.startswith("--workdir") for argument in arguments) else [f"--workdir={tmp_path / 'run'}"]
    )
    monkeypatch.setattr(sys, "argv", ["train", f"--config={config_file}", *workdir, *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.run(main)
    error = capsys.readouterr().err
    assert exit_.value.code in (1, 2)
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert re.search(message, error), error
    assert not (tmp_path / "run").exists()
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.full
def test_the_real_e2e_data_with_gpt2s_tokenizer(real_data, tmp_path, monkeypatch):
    """The command of the README on the real data, with a random GPT-2 of two layers, bounded to a few steps."""
    import jax

    from hut_jax.models.gpt2 import GPT2
    from hut_jax.models.gpt2_config import GPT2Config
    from hut_jax.models.hub.pretrained import init_params
    from hut_jax.models.hub.saving import save_pretrained

    model = GPT2(GPT2Config(vocab_size=50257, n_positions=512, n_embd=32, n_layer=2, n_head=4))
    save_pretrained(tmp_path / "gpt2", model, init_params(model, jax.random.key(0)))
    monkeypatch.chdir(ROOT)
    code = main(
        [
            "--config=configs/e2e.py",
            f"--config.model={tmp_path / 'gpt2'}",
            f"--config.data.dir={real_data / 'e2e'}",
            f"--config.data.cache={tmp_path / 'cache'}",
            f"--config.tokenizer={real_data / 'tokenizers/gpt2'}",
            "--config.eval.max_examples=500",
            f"--workdir={tmp_path / 'run'}",
            "--config.train.steps=30",
            "--config.mesh.data=1",
        ]
    )
    assert code == 0
    first, last = (line["loss"] for line in read_metrics(tmp_path / "run") if line["split"] == "validation")
    assert last < first


@pytest.mark.full
def test_runs_that_differ_only_in_learning_rate_and_seed_compile_once(config_file, tmp_path):
    def compiled_by(*overrides):
        """How many programs a run compiles that no run before it has compiled."""
        before = len([*(tmp_path / "cache").glob("*-cache")])
        workdir = tmp_path / "_".join(["run", *overrides])
        command = [sys.executable, "-m", "hut_jax.train", f"--config={config_file}", f"--workdir={workdir}"]
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
        arguments = ["--config.train.steps=3", *(f"--config.{one}" for one in overrides)]
        subprocess.run([*command, *arguments], check=True, cwd=ROOT, env=environment, capture_output=True)
        return len([*(tmp_path / "cache").glob("*-cache")]) - before

    assert compiled_by() > 5
    assert compiled_by("train.learning_rate=0.1", "seed=3") == 0
    assert compiled_by("train.weight_decay=0.2") == 1  # the optimiser, but not the gradient
    assert compiled_by("adapter.rank=1") > 2

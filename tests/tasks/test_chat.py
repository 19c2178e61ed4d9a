"""The task "chat": a run from a JSONL file to answers."""

import gzip
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from hut_jax import UserError
from hut_jax.config import default_config, freeze
from hut_jax.data.tokenizer import load_tokenizer
from hut_jax.runs.config_files import load_config_file
from hut_jax.runs.decoding import Decoder
from hut_jax.runs.run import make_run
from hut_jax.runs.trained import load_run
from hut_jax.tasks.chat import Chat, Messages
from hut_jax.train import train
from hut_jax.training.steps import Steps
from tests.data.chat.conftest import TEMPLATE, adds_a


@pytest.fixture
def config(small_model, tmp_path):
    (tmp_path / "template.jinja").write_text(TEMPLATE)
    talk = [[{"role": "user", "content": f"Say {word}"}, {"role": "assistant", "content": word}] for word in "abcde"]
    lines = [{"messages": talk[i % 5]} for i in range(40)]
    (tmp_path / "chat.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    config = default_config("chat")
    config.model = str(small_model)
    config.data.update(
        {"file": str(tmp_path / "chat.jsonl"), "template": str(tmp_path / "template.jinja"), "holdout": 4}
    )
    config.data.max_length = config.data.row = 64
    config.train.update({"steps": 3, "batch_size": 2, "warmup": 0.0, "scan_layers": True})
    config.eval.every = config.checkpoint.every = 3
    config.mesh.data = config.eval.batch_size = 2
    config.decode.update({"max_new_tokens": 4, "beams": 1})
    return config


@pytest.mark.full
def test_a_run_that_is_killed_ends_with_the_same_bits_and_answers(config, tmp_path, monkeypatch):
    """Killed before step 5 and started again, it continues from step 3 with the rows that come next."""
    config.train.steps = 6
    run, steps, step = tmp_path / "run", [], Steps.train

    class Killed(Exception):
        pass

    def killed(self, state, *args):
        steps.append(int(state.step))
        if steps == [0, 1, 2, 3, 4]:
            raise Killed
        return step(self, state, *args)

    result = train(freeze(config), run)
    monkeypatch.setattr(Steps, "train", killed)
    with pytest.raises(Killed):
        train(freeze(config), tmp_path / "again")
    train(freeze(config), tmp_path / "again")
    assert steps == [*range(5), *range(3, 6)]
    whole, resumed = (load_file(folder / "adapter/adapter_model.safetensors") for folder in (run, tmp_path / "again"))
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)
    losses = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert result["best"]["loss"] < next(line["loss"] for line in losses if line["split"] == "validation")
    trained = load_run(run)
    decoder = Decoder(trained, Messages())
    (answer,) = decoder.generate(["Say a"])
    assert 0 < len(answer) <= 4
    assert decoder.answer([{"role": "user", "content": "Say a"}]) == decoder.text(answer, one_line=False)
    trained.tokenizer.save(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").chat_template == TEMPLATE


@pytest.mark.full
def test_the_config_file_trains_a_decoder_on_rows_of_several_examples(config, small_decoder, tmp_path, monkeypatch):
    """On scanned layers."""
    file, steps, step = load_config_file("chat"), [], Steps.train
    file.model = str(small_decoder)
    file.data.update({name: config.data[name] for name in ("file", "template", "holdout", "max_length", "row")})
    file.train.update({"steps": 6, "batch_size": 2, "warmup": 0.0, "learning_rate": 0.05})
    file.eval.every = file.checkpoint.every = 6
    file.mesh.data = file.eval.batch_size = 2

    def watched(self, state, base, batches):
        assert base["layers"]["attention"]["query"]["kernel"].shape == (2, 16, 16)
        steps.extend(int(batch["segment_ids"].max()) for batch in batches)
        return step(self, state, base, batches)

    monkeypatch.setattr(Steps, "train", watched)
    result = train(freeze(file), tmp_path / "run")
    assert len(steps) == 6
    assert min(steps) > 1
    losses = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert result["best"]["loss"] < next(line["loss"] for line in losses if line["split"] == "validation")


def test_a_prompt_is_continued_as_it_is_or_as_the_message_of_a_user(config):
    run = make_run(freeze(config))
    assert run.task.prompts(["Say a"], run.tokenizer) == [run.tokenizer.encode("Say a")]
    (prompt,) = Messages().prompts(["Say a"], run.tokenizer)
    assert run.tokenizer.decode(prompt) == "<user>Say a<|endoftext|><assistant>"


def test_a_prompt_begins_as_a_plain_text_in_training():
    beginning = adds_a()
    assert [beginning.decode(ids) for ids in Chat().prompts(["the", "A the"], beginning)] == ["Athe", "A the"]
    beginning.chat_template = TEMPLATE
    (prompt,) = Messages().prompts(["the"], beginning)
    assert beginning.decode(prompt) == "<user>the<|endoftext|><assistant>"  # a template writes its own


def test_what_is_cut_is_told(config, tmp_path):
    lines = [{"prompt": "a", "completion": " b" * n} for n in (5, 100, 5, 100)]
    lines += [{"prompt": "a " * 100, "completion": "b"}] * 3
    (tmp_path / "long.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert make_run(freeze(config)).load_data().notes == ()
    config.data.file, config.data.holdout = str(tmp_path / "long.jsonl"), 2
    config.data.validation = config.data.file
    assert make_run(freeze(config)).load_data().notes == (
        "config.data.max_length, 64 tokens, cuts 2 of 7 training examples, and leaves out 3, of which nothing to learn "
        "is left",
        "config.data.max_length, 64 tokens, cuts 0 of 2 validation examples, and leaves out 1, of which nothing to "
        "learn is left",
    )
    config.data.validation, config.data.holdout = "", 1
    with pytest.raises(
        UserError, match=r"none of 1 examples for validation .*first 64; raise config\.data\.max_length"
    ):
        make_run(freeze(config)).load_data()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a b"}\n'.encode("utf-16"), "line 1: not UTF-8 "),
        (gzip.compress(b'{"text": "a b"}\n', mtime=0), "line 1: not UTF-8 "),
        (b'{"text": "a b"}\r{"text": "c d"}\r', "line 1: not JSON: .*; a line should end with a line feed"),
        (b'[{"text": "a b"}, {"text": "c d"}]', "line 1: a list in place of a JSON object; each example should be"),
        (b'{"text": "a b"}\n', "has 1 examples, and there should be at least 2"),
    ],
)
def test_a_file_of_another_kind_is_named_as_what_it_is(config, tmp_path, content, message):
    (tmp_path / "other").write_bytes(content)
    config.data.file = str(tmp_path / "other")
    with pytest.raises(UserError, match=message):
        make_run(freeze(config)).load_data()


def test_an_example_that_may_be_longer_than_the_model_takes_is_told_by_its_field(config):
    config.data.max_length = config.data.row = 1024
    message = r"^config\.data\.max_length is 1024, and the model takes at most 192 tokens; set it to 193 or less$"
    with pytest.raises(UserError, match=message):
        make_run(freeze(config)).load_data()
    config.data.max_length = config.data.row = 193
    make_run(freeze(config)).load_data()


def test_the_data_is_rows_to_train_on_and_examples_to_validate_on(config):
    data = make_run(freeze(config)).load_data()
    assert data.train.describe().startswith("36 training examples in about ")
    assert len(data.validation["validation"]) == 4
    config.data.validation, config.data.holdout = config.data.file, 7
    data = make_run(freeze(config)).load_data()
    assert data.train.describe().startswith("40 training examples in about ")
    assert len(data.validation["validation"]) == 7
    assert np.isclose(data.train.mean_length, data.validation["validation"].inputs.mean(), rtol=0.2)
    assert data.longest == 63  # of an example, not of a row


def test_bad_data_is_one_line_before_anything_is_trained(config, tmp_path):
    config.data.file = ""
    with pytest.raises(UserError, match=r"config\.data\.file is empty"):
        make_run(freeze(config)).load_data()
    config.data.file = str(tmp_path / "bad.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"text": "a b"}\n' * 30 + '{"txt": 3}\n')
    with pytest.raises(UserError, match=r"bad.jsonl, line 31: it has 'txt', and none of"):
        make_run(freeze(config)).load_data()
    (tmp_path / "bad.jsonl").write_text("\n")
    with pytest.raises(UserError, match=r"bad.jsonl has 0 examples, and there should be at least 2"):
        make_run(freeze(config)).load_data()
    config.data.row = 40
    with pytest.raises(UserError, match=r"config\.data\.row is 40, and an example may take 63 tokens of a row; "):
        make_run(freeze(config)).load_data()
    config.data.template = str(tmp_path / "missing.jinja")
    with pytest.raises(UserError, match=r"missing\.jinja"):
        make_run(freeze(config))
    (tmp_path / "missing.jinja").write_text("\n")
    with pytest.raises(UserError, match=r"missing\.jinja, the file in config\.data\.template, is empty$"):
        make_run(freeze(config))

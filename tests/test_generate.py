"""The generate command: a line in, a line out, and whatever is wrong told in one line with nothing written."""

import io
import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hut_jax import UserError, load_adapter, load_pretrained
from hut_jax.config import freeze, from_json, set_task, thaw, to_json
from hut_jax.data.e2e.dataset import encode_prompts
from hut_jax.data.tokenizer import load_tokenizer
from hut_jax.generate import main
from hut_jax.generation import Beam, Constraints, Continuation, generate
from hut_jax.parallel.activations import BATCH
from hut_jax.parallel.mesh import make_mesh
from hut_jax.runs import decoding
from hut_jax.runs.text_files import read_lines
from tests.data.chat.conftest import TEMPLATE

RANDOM = np.random.default_rng(0)
MRS = ["name[Alba], food[Welsh]", "name[Alba]", "name[The Mill], eatType[pub], area[riverside]"]


@pytest.fixture
def mrs(tmp_path):
    path = tmp_path / "mrs.txt"
    path.write_text("".join(f"{mr}\n" for mr in MRS))
    return path


OPTION = "--config.decode.length_penalty=0.8"


def test_a_text_for_each_line(run, mrs, small_config, tmp_path, capsys):
    """With factors so large that the texts are not the base's."""
    tensors = load_file(run / "adapter/adapter_model.safetensors")
    noise = {name: np.float32(RANDOM.standard_normal(tensor.shape)) for name, tensor in tensors.items()}
    save_file(noise, run / "adapter/adapter_model.safetensors")
    arguments = [f"--workdir={run}", f"--input={mrs}", f"--output={tmp_path / 'texts.txt'}"]
    assert main([*arguments, OPTION]) == 0
    out = capsys.readouterr()
    assert f"3 texts are in {tmp_path / 'texts.txt'}" in out.out
    assert "3/3" in out.err  # the progress bar

    model, params = load_pretrained(small_config.model)
    adapter, factors = load_adapter(run / "adapter", params)
    tokenizer = load_tokenizer(small_config.model)
    prompts, constraints = encode_prompts(MRS, tokenizer), Constraints(6, tokenizer.eos_id, no_repeat_ngram=4)
    size, mesh = small_config.decode.batch_size, make_mesh(8)
    whole, rows = (jax.NamedSharding(mesh, spec) for spec in (jax.P(), jax.P(BATCH)))  # as the command: one program

    def texts(weights):
        weights, beam = jax.device_put(weights, whole), Beam(3, length_penalty=0.8)
        found = generate(model, weights, prompts, beam, constraints, batch_size=size, sharding=rows)
        return [" ".join(tokenizer.decode(one.tokens).split()) for one in found]

    adapted, base = texts(adapter.merge(params, factors)), texts(params)
    lines = (tmp_path / "texts.txt").read_text().splitlines()
    assert lines == adapted
    assert lines != base


@pytest.mark.full
def test_ids_that_are_no_tokens_are_never_written(finished, small_model, mrs, tmp_path, capsys):
    """The vocabulary is padded, and the model likes the padding best, as untrained rows may be liked."""
    padded = Path(shutil.copytree(small_model, tmp_path / "padded"))
    tensors = load_file(padded / "model.safetensors")
    rows = tensors["transformer.wte.weight"]
    tensors["transformer.wte.weight"] = np.concatenate([rows, 50 * rows[:62], -50 * rows[:62]])
    save_file(tensors, padded / "model.safetensors", {"format": "pt"})
    values = json.loads((padded / "config.json").read_text())
    (padded / "config.json").write_text(json.dumps(values | {"vocab_size": 2048 + 124}))
    arguments = [f"--workdir={finished}", f"--input={mrs}", "--config.decode.method=greedy", "--force"]
    assert main([*arguments, f"--output={tmp_path / 'texts.txt'}", f"--config.model={padded}"]) == 0
    note = "note: the model has 124 token ids that its tokenizer lacks; none is ever written\n"
    assert note in capsys.readouterr().err
    lines = (tmp_path / "texts.txt").read_text().splitlines()
    assert len(lines) == 3
    assert all(lines)  # the padding would have been decoded to nothing


@pytest.mark.full
def test_another_method_may_be_named(finished, mrs, tmp_path):
    arguments = [f"--workdir={finished}", f"--input={mrs}", f"--output={tmp_path / 'texts.txt'}"]
    assert main([*arguments, OPTION]) == 0
    lines = (tmp_path / "texts.txt").read_text().splitlines()
    assert main([*arguments, "--config.decode.method=sample", "--config.decode.top_p=0.9"]) == 0
    assert len((tmp_path / "texts.txt").read_text().splitlines()) == 3
    assert (tmp_path / "texts.txt").read_text().splitlines() != lines


@pytest.fixture
def talking(small_model, tmp_path):
    """The option that names the run's tokenizer with a chat template."""
    folder = shutil.copytree(small_model, tmp_path / "talking")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return f"--config.tokenizer={folder}"


@pytest.fixture
def asked(monkeypatch, finished):
    """The prompts that the model was given, as texts. It answers with the number of the prompt."""
    found, tokenizer = [], load_tokenizer("assets/tiny")

    def generate(model, params, prompts, method, constraints, **options):
        first = len(found)
        found.extend(map(tokenizer.decode, prompts))
        return [Continuation(tokenizer.encode(f" Answer\n{first + i}. ")) for i in range(len(prompts))]

    monkeypatch.setattr(decoding, "generate", generate)
    return found


def test_a_chat_keeps_the_conversation_until_the_input_ends(finished, talking, asked, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("Where is the hill?\n \nAnd the river?\n"))
    assert main([f"--workdir={finished}", talking, "--chat"]) == 0
    assert capsys.readouterr().out == "Answer\n0.\nAnswer\n1.\n"
    begun = "<user>Where is the hill?<|endoftext|><assistant>"
    assert asked == [begun, f"{begun}Answer\n0.<|endoftext|><user>And the river?<|endoftext|><assistant>"]


def test_prompts_are_continued_as_they_are_or_as_messages_of_a_chat(finished, talking, asked, capsys, mrs, tmp_path):
    arguments = [f"--workdir={finished}", talking, "--prompt=One", "--prompt=Two"]
    assert main(arguments) == 0
    assert main([*arguments, "--chat"]) == 0
    assert capsys.readouterr().out == "".join(f"Answer\n{i}.\n" for i in range(4))
    assert asked[:2] == ["One<|endoftext|>", "Two<|endoftext|>"]  # E2E's own prompts
    assert asked[2:] == [f"<user>{text}<|endoftext|><assistant>" for text in ("One", "Two")]
    assert main([f"--workdir={finished}", talking, "--chat", f"--input={mrs}", f"--output={tmp_path / 'out'}"]) == 0
    assert asked[4:] == [f"<user>{mr}<|endoftext|><assistant>" for mr in MRS]
    assert (tmp_path / "out").read_text() == "Answer 4.\nAnswer 5.\nAnswer 6.\n"


def test_a_run_of_chat_continues_a_text_as_it_is_and_notes_where_a_template_is_used(run, talking, asked, capsys):
    config = thaw(from_json((run / "config.json").read_text()))
    set_task(config, "chat")
    (run / "config.json").write_text(to_json(freeze(config)))
    assert main([f"--workdir={run}", talking, "--prompt=One"]) == 0
    out = capsys.readouterr()
    assert (asked, out.out) == (["One"], "Answer\n0.\n")  # nothing but the text
    assert "note: each text is continued as it is; --chat makes it the message of a user" in out.err
    assert main([f"--workdir={run}", talking, "--prompt=One", "--chat"]) == 0
    assert asked[1:] == ["<user>One<|endoftext|><assistant>"]
    assert "note: each text" not in capsys.readouterr().err


def test_a_chat_without_standard_input_is_one_line(finished, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UserError, match=r"^standard input is closed, from which --chat alone reads messages; give"):
        main([f"--workdir={finished}", "--chat"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--chat"], "the tokenizer has no chat template, which a chat needs; --config.tokenizer=FOLDER names one"),
        ([], "give --input and --output, or --prompt, or --chat alone to write the messages here"),
        (["--input=mrs.txt"], "give --input and --output, or --prompt"),
        (["--chat", "--output=texts.txt"], "give --input and --output, or --prompt"),
        (["--prompt=a", "--input=mrs.txt", "--output=texts.txt"], "give --input and --output, or --prompt, not both"),
        (["--chat", "--prompt=\udcff"], r"--prompt='\\udcff' is not UTF-8"),
    ],
)
def test_what_is_missing_for_a_chat_or_a_prompt_is_one_line(finished, arguments, message):
    with pytest.raises(UserError, match=message) as error:
        main([f"--workdir={finished}", *arguments])
    assert "\n" not in str(error.value)


def test_a_line_ends_where_an_editor_ends_it(tmp_path):
    (tmp_path / "mrs.txt").write_bytes("\ufeffname[A\u2028B]\r\nname[C\x0cD]\n".encode())
    assert read_lines(tmp_path / "mrs.txt") == ["name[A\u2028B]", "name[C\x0cD]"]


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("", (), r"mrs.txt is empty"),
        ("a\n \nb\n", (), r"mrs.txt, line 2 is empty"),
        (
            "a\n" + "word " * 400,
            (),
            r"mrs.txt: prompt 2 of 2 .*with 6 new ones that is above the model's n_positions 192",
        ),
        ("a", ("--config.decode.beams=3000",), r"3000 beams are more than the vocabulary has tokens, 2048"),
        ("a", ("--config.decode.beems=3",), r"config.decode.beems cannot be changed .*'decode.beams'"),
        ("a", ("--config.adapter.rank=3",), r"config.adapter.rank cannot be changed after training"),
        ("a", ("--config.decode.top_p=0",), r"config.decode.top_p is 0.0; it must be above 0 and at most 1"),
        ("a", ("--beams=3",), r"unknown argument --beams; did you mean '--config.decode.beams'"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(finished, mrs, tmp_path, text, arguments, message):
    mrs.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        main([f"--workdir={finished}", f"--input={mrs}", f"--output={tmp_path / 'texts.txt'}", *arguments])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "texts.txt").exists()


def test_files_and_runs_that_are_not_there(finished, mrs, tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*none.txt: No such file"):
        main([f"--workdir={finished}", f"--input={tmp_path / 'none.txt'}", f"--output={tmp_path / 'texts.txt'}"])
    with pytest.raises(UserError, match=r"cannot be written: there is no folder"):
        main([f"--workdir={finished}", f"--input={mrs}", f"--output={tmp_path / 'no/texts.txt'}"])
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("pipe", "it is not a regular file"), ("x" * 300, "File name too long")):
        with pytest.raises(UserError, match=f"cannot be written: {message}"):
            main([f"--workdir={finished}", f"--input={mrs}", f"--output={tmp_path / name}"])
    with pytest.raises(UserError, match=r"no run in"):
        main([f"--workdir={tmp_path / 'no'}", f"--input={mrs}", f"--output={tmp_path / 'texts.txt'}"])


def test_a_run_of_a_task_that_generates_no_text_is_refused(run, mrs, tmp_path):
    config = thaw(from_json((run / "config.json").read_text()))
    set_task(config, "sst2")
    (run / "config.json").write_text(to_json(freeze(config)))
    with pytest.raises(UserError, match="'sst2', which generates no text; those that do: 'e2e', 'chat', 'lm'"):
        main([f"--workdir={run}", f"--input={mrs}", f"--output={tmp_path / 'texts.txt'}"])

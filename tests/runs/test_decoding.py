"""Text from a trained run: where it ends, and the answers of a chat. The model's part is played here."""

import json
import shutil

import pytest

from hut_jax import UserError
from hut_jax.generation import Continuation
from hut_jax.runs import decoding
from hut_jax.runs.decoding import Decoder
from hut_jax.runs.trained import load_run, read_trained_config
from hut_jax.tasks import task_named
from hut_jax.tasks.chat import Chat, Messages
from tests.data.chat.conftest import TEMPLATE

SAYS = "The hill.\n\nIt is far"


@pytest.fixture(scope="module")
def base(small_model, tmp_path_factory):
    """The base of the finished run with a chat template, whose turns end with a token of their own."""
    folder = tmp_path_factory.mktemp("models") / "base"
    shutil.copytree(small_model, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE.replace("<|endoftext|>", "!"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"additional_special_tokens": ["!"]}))
    return folder


@pytest.fixture(scope="module")
def trained(finished, base):
    return load_run(finished, read_trained_config(finished, [f"--config.model={base}"]), scan_layers=False)


@pytest.fixture
def calls(monkeypatch, trained):
    """The prompts, the constraints and the options of each call of `generate`, which always says the same."""
    found = []

    def generate(model, params, prompts, method, constraints, **options):
        found.append((prompts, constraints, options))
        return [Continuation(trained.tokenizer.encode(f" {SAYS}\n"))] * len(prompts)

    monkeypatch.setattr(decoding, "generate", generate)
    return found


def ends_of(trained, calls, base, task, named):
    """The end tokens of a decoder of the task where generation_config.json names these."""
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": named}))
    Decoder(trained, task).generate(["a"])
    return calls[-1][1].ends


def test_a_text_ends_at_any_end_token_that_the_models_files_name(trained, calls, base):
    e2e, own, turn = task_named("e2e"), trained.tokenizer.eos_id, trained.tokenizer.encode("!")[0]
    assert own != turn
    assert ends_of(trained, calls, base, e2e, None) == (own,)
    assert ends_of(trained, calls, base, e2e, [7, own, 9]) == (own, 7, 9)
    assert ends_of(trained, calls, base, e2e, [7, 5000]) == (own, 7)  # the model has no such token
    assert ends_of(trained, calls, base, Chat(), [7, own]) == tuple(sorted((own, 7, turn)))


def test_ids_of_another_tokenizer_are_no_end_tokens(trained, calls, base, monkeypatch):
    monkeypatch.setattr(trained.tokenizer, "eos_id", 11)  # neither file names it
    assert ends_of(trained, calls, base, task_named("e2e"), [7, 9]) == (11,)


def test_an_answer_continues_the_conversation_by_the_chat_template(trained, calls):
    talk = [("user", "Where?"), ("assistant", "Here."), ("user", "And the hill?")]
    answer = Decoder(trained, Messages()).answer([{"role": role, "content": content} for role, content in talk])
    assert answer == SAYS
    (((prompt,), _, options),) = calls
    assert trained.tokenizer.decode(prompt) == "<user>Where?!<assistant>Here.!<user>And the hill?!<assistant>"
    assert options["length_multiple"] == 256


def test_text_that_ends_a_turn_of_the_template_ends_the_answer(trained, calls, monkeypatch):
    monkeypatch.setattr(trained.tokenizer.auto, "chat_template", TEMPLATE.replace("<|endoftext|>", "It is\n"))
    assert Decoder(trained, Messages()).answer([{"role": "user", "content": "Where?"}]) == "The hill."
    plain, special = Decoder(trained, Chat()), trained.tokenizer.encode(f" {SAYS}\n")
    assert plain.text(special, one_line=False) == SAYS  # no chat, no turn


def test_a_conversation_that_no_longer_fits_is_one_line(trained, calls):
    decoder = Decoder(trained, Messages())

    def ask(content):
        return decoder.answer([{"role": "user", "content": content}])

    one, new = len(trained.tokenizer.encode("<user>!<assistant>")), trained.config.decode.max_new_tokens
    most = 192 - one - new
    ask("a" + " a" * (most - 1))
    message = rf"^the conversation has {193 - new} tokens, an answer may have 6, and the model takes 192 in all; start "
    with pytest.raises(UserError, match=message) as error:
        ask("a" + " a" * most)
    assert "\n" not in str(error.value)
    assert len(calls) == 1

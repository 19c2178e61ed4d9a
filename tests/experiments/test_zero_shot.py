"""What a base writes before any training."""

import json
import shutil

import pytest

from experiments.zero_shot import QUESTION, Asked, main
from hut_jax import UserError, load_pretrained
from hut_jax.data.tokenizer import load_tokenizer
from hut_jax.generation import Constraints, Greedy, generate
from hut_jax.metrics.e2e import java
from hut_jax.tasks import TASKS

TEMPLATE = "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}" + (
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def chatting(small_model, tmp_path):
    """The small model, whose tokenizer has a chat template."""
    folder = shutil.copytree(small_model, tmp_path / "chatting")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": TEMPLATE}))
    return folder


def test_a_question_has_the_form_of_the_chat_template_up_to_the_answer(chatting):
    tokenizer = load_tokenizer(chatting)
    (prompt,) = Asked().prompts(["name[The Mill]"], tokenizer)
    assert tokenizer.decode(prompt) == f"<user>{QUESTION.format('name[The Mill]')}<assistant>"


@pytest.mark.full
def test_the_base_writes_what_it_writes_without_an_adapter(
    chatting, config_file, small_config, tmp_path, capsys, monkeypatch
):
    def without_java(texts):
        raise java.Unavailable("not in this test")

    monkeypatch.setattr(java, "tokenize", without_java)
    arguments = [f"--config={config_file}", f"--config.model={chatting}", f"--output={tmp_path / 'out'}"]
    with pytest.raises(UserError, match=r"config.task is 'lm'; this is for 'e2e'"):
        main([*arguments, "--config.task=lm"])
    main([*arguments, "--config.decode.method=greedy"])
    model, params = load_pretrained(chatting)
    tokenizer, mrs = load_tokenizer(chatting), list(TASKS["e2e"].load_references(small_config.data))
    for name, task in (("as_trained", TASKS["e2e"]), ("asked", Asked())):
        limits = Constraints(6, tokenizer.eos_id, no_repeat_ngram=4)
        found = generate(model, params, task.prompts(mrs, tokenizer), Greedy(), limits)
        texts = [" ".join(tokenizer.decode(one.tokens).split()) for one in found]
        assert (tmp_path / f"out/{name}.txt").read_text().split("\n")[:-1] == texts
    assert json.loads((tmp_path / "out/scores.json").read_text()).keys() == {"as_trained", "asked"}
    assert "asked BLEU" in capsys.readouterr().out

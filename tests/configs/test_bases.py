"""The configs of the bases that are made here, and of E2E on one."""

from pathlib import Path

import pytest

from hut_jax import UserError
from hut_jax.config import freeze
from hut_jax.models.hub.pretrained import build_model
from hut_jax.runs import config_files
from hut_jax.training.optimizer import warmup_steps


@pytest.mark.parametrize(
    ("name", "head"), [("gpt2", "causal"), ("gpt2_50m", "causal"), ("roberta", "mlm"), ("roberta_50m", "mlm")]
)
def test_a_base_has_the_real_models_vocabulary_and_takes_its_blocks(name, head):
    config = config_files.load_config_file(f"configs/pretrain.py:{name}")
    freeze(config)
    model = build_model(config.model).config
    assert model.vocab_size == {"causal": 50257, "mlm": 50265}[head]
    assert model.n_positions >= config.data.block
    assert build_model(config.model, head=head).config.head == head
    assert (config.adapter.name, config.init, config.train.dropout) == ("full", "random", False)


def test_a_base_that_there_is_not_is_one_line():
    with pytest.raises(UserError, match="no base 'gtp2'; did you mean 'gpt2'"):
        config_files.load_config_file("configs/pretrain.py:gtp2")


@pytest.mark.parametrize(("base", "steps"), [("gpt2", 600), ("gpt2_50m", 400)])
def test_e2e_is_the_papers_recipe_for_less_time(base, steps):
    config = config_files.load_config_file(f"configs/e2e_books.py:{base}")
    freeze(config)
    assert config.train.epochs * config.data.max_examples == steps * config.train.batch_size
    assert config.train.label_smoothing == config_files.load_config_file("configs/e2e.py").train.label_smoothing == 0.1
    assert build_model(f"configs/bases/{base}").config.n_positions >= 142  # E2E's longest


def test_e2e_is_on_the_base_that_the_two_commands_make():
    config = config_files.load_config_file("configs/e2e_books.py:gpt2")
    assert config.train.batch_size == config_files.load_config_file("configs/e2e.py").train.batch_size == 8
    assert f"--output={config.model}\n" in Path("configs/pretrain.py").read_text()
    with pytest.raises(UserError, match="no base ''; valid: 'gpt2', 'gpt2_50m'"):
        config_files.load_config_file("configs/e2e_books.py")


def test_e2e_on_smollm2_is_a_brief_run_on_the_base_that_a_command_makes():
    config = config_files.load_config_file("configs/e2e.py:smollm2")
    assert (config.train.steps, config.train.batch_size, config.adapter.targets) == (600, 8, ("all-linear",))
    assert warmup_steps(freeze(config).train, 600) == 36
    assert f"--output={config.model}\n" in Path("experiments/bases/smollm2.py").read_text()
    with pytest.raises(UserError, match="no recipe for the base 'smollm'; did you mean 'smollm2'"):
        config_files.load_config_file("configs/e2e.py:smollm")

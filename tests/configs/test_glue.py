"""GLUE on small models: MiniLM, a RoBERTa made here, and SmolLM2."""

import pytest

from hut_jax import UserError
from hut_jax.config import freeze
from hut_jax.models.hub.pretrained import build_model
from hut_jax.runs import config_files


def test_it_is_the_tasks_config_with_the_encoder_in_place_of_roberta(minilm):
    config = config_files.load_config_file("configs/minilm.py:sst2")
    assert (config.task, config.data.max_examples, config.train.epochs) == ("sst2", 5000, 2.0)
    assert config.model == str(minilm)
    assert config.adapter.also_train == ("^(pooler|classifier)",)
    encoder = build_model(config.model).config
    assert (encoder.model_type, encoder.hidden_size, encoder.num_hidden_layers) == ("bert", 384, 6)


@pytest.mark.usefixtures("minilm")
def test_the_roberta_made_here_has_the_same_task():
    config, other = (config_files.load_config_file(f"configs/{base}.py:sst2") for base in ("roberta_books", "minilm"))
    freeze(config)
    assert config.model == "runs/bases/roberta/merged"
    config.model = other.model
    assert config == other


def test_a_decoder_has_the_same_task_on_scanned_layers():
    config = config_files.load_config_file("configs/glue_brief.py:sst2,smollm2")
    other = config_files.load_config_file("configs/glue_brief.py:sst2")
    freeze(config)
    assert (config.model, config.train.scan_layers, config.data.max_examples) == ("runs/smollm2", True, 5000)
    config.model, config.train.scan_layers = other.model, other.train.scan_layers
    assert config == other


def test_a_task_that_there_is_not_is_one_line():
    with pytest.raises(UserError, match="no task 'kola' in GLUE; did you mean 'cola'"):
        config_files.load_config_file("configs/minilm.py:kola")

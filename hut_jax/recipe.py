"""From a config to the parts of a run: the base, the adapter, the task."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from hut_jax.adapter import Adapter
from hut_jax.config import ADAPTER_FIELDS
from hut_jax.data.tokenizer import Tokenizer, load_tokenizer
from hut_jax.errors import UserError, nearest
from hut_jax.models.pretrained import build_model, init_params, load_pretrained
from hut_jax.targets import unflatten
from hut_jax.tasks import TASKS, Task
from hut_jax.transforms import make_transform


@dataclass(frozen=True)
class Parts:
    """What a run is made of, all of it checked against each other; the base's weights are not read yet."""

    model: Any
    shapes: Any
    tokenizer: Tokenizer
    adapter: Adapter
    task: Task


def make_parts(config: ConfigDict) -> Parts:
    """Everything but the base's weights, the quickest to check first.

    Raises:
        UserError: a part cannot be had, or does not fit another.
    """
    if config.task not in TASKS:
        raise UserError(f"config.task is {config.task!r}; {nearest(config.task, TASKS)}")
    model = build_model(config.model, **model_options(config))
    adapter = make_adapter(config)
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    adapter.sites(shapes)  # for its errors: a pattern or a rank that does not fit
    tokenizer = load_tokenizer(config.tokenizer or config.model)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise UserError(
            f"the tokenizer {config.tokenizer or config.model} has {tokenizer.vocab_size:,} tokens and the model "
            f"{config.model} a vocabulary of {model.config.vocab_size:,}; give config.tokenizer the model's own"
        )
    task = TASKS[config.task](config, tokenizer)
    if task.longest > model.config.n_positions:
        raise UserError(
            f"the longest example has {task.longest} tokens and the model takes {model.config.n_positions}; "
            "lower config.data.max_length or config.data.block"
        )
    return Parts(model, shapes, tokenizer, adapter, task)


def make_adapter(config: ConfigDict) -> Adapter:
    """The adapter of `config.adapter`.

    Raises:
        UserError: a setting or a pattern is wrong in itself.
    """
    fields = {name: value for name, value in config.adapter.items() if name not in ("name", *ADAPTER_FIELDS)}
    return Adapter(
        make_transform(config.adapter.name, **fields),
        config.adapter.targets,
        exclude=config.adapter.exclude,
        ranks=config.adapter.ranks,
        layout=config.adapter.layout,
        also_train=config.adapter.also_train,
    )


def rates(config: ConfigDict, adapter: Adapter, shapes: Any) -> Any:
    """For each factor what its learning rate is a multiple of the run's by: a tree like the factors'.

    Args:
        config: with its learning rates resolved (`config.resolve`).
        adapter: of the run.
        shapes: of the base's parameters.
    """
    also = config.train.also_train_learning_rate / config.train.learning_rate
    return unflatten(
        {
            site.path: {
                name: (also if site.also else 1.0) * site.transform.rates.get(name, 1.0) for name in site.factors
            }
            for site in adapter.sites(shapes)
        }
    )


def load_base(config: ConfigDict) -> tuple[Any, Any]:
    """The base model and its parameters: pretrained, or drawn at random from the seed.

    Raises:
        UserError: the model cannot be had.
    """
    if config.init == "pretrained":
        return load_pretrained(config.model, **model_options(config))
    model = build_model(config.model, **model_options(config))
    return model, init_params(model, jax.random.key(config.seed), dtype=model.dtype)


def batching(config: ConfigDict) -> dict[str, Any]:
    """The options of `batch_dataset` for training batches."""
    return {
        "batch_size": config.train.batch_size // config.train.accumulate,
        "seed": config.seed,
        "length_multiple": config.data.length_multiple,
        "slot_multiple": config.data.slot_multiple,
    }


def model_options(config: ConfigDict) -> dict[str, Any]:
    """The options of `load_pretrained` and `build_model`."""
    return {
        "dtype": jnp.dtype(config.dtype),
        "remat": config.train.remat,
        "scan_layers": config.train.scan_layers,
    }

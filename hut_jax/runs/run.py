"""From a config to the parts of a run: the base, the adapter, the task."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from hut_jax.adapters.adapter import Adapter
from hut_jax.adapters.files import check_base, load_adapter
from hut_jax.config import ADAPTER_FIELDS
from hut_jax.core.errors import UserError, nearest
from hut_jax.core.scanned_layers import stacked_as
from hut_jax.core.trees import Path, flatten, show, split, unflatten
from hut_jax.data.batching import Batching
from hut_jax.data.encoder_tokenizer import load_encoder_tokenizer
from hut_jax.data.tokenizer import load_tokenizer
from hut_jax.data.tokenizer_base import BaseTokenizer
from hut_jax.models.hub.pretrained import build_model, init_params, load_pretrained, missing_params
from hut_jax.parallel.processes import put_tree
from hut_jax.tasks import TASKS, Task
from hut_jax.transforms import Full, make_transform


@dataclass(frozen=True)
class Parts:
    """What a run is made of, all of it checked against each other; the base's weights are not read yet."""

    model: Any
    shapes: Any
    tokenizer: BaseTokenizer
    adapter: Adapter
    task: Task


def make_parts(config: ConfigDict) -> Parts:
    """Everything but the base's weights, the quickest to check first.

    Raises:
        UserError: a part cannot be had, or does not fit another.
    """
    model = build_model(config.model, **head(config), **model_options(config))
    adapter = make_adapter(config)
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    sites = adapter.sites(shapes)  # for its errors: a pattern or a rank that does not fit
    tokenizer = load_any_tokenizer(config, model)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise UserError(
            f"the tokenizer {config.tokenizer or config.model} has {tokenizer.vocab_size:,} tokens and the model "
            f"{config.model} a vocabulary of {model.config.vocab_size:,}; give config.tokenizer the model's own"
        )
    task = TASKS[config.task].load(config, tokenizer).judged_by(config.eval.max_examples)
    if task.longest > model.config.n_positions:
        raise UserError(
            f"the longest example has {task.longest} tokens and the model takes {model.config.n_positions}; "
            "lower config.data.max_length or config.data.block"
        )
    learned = {site.path for site in sites if type(site.transform) is Full}
    for path in new_params(config):
        if split(path) not in learned:
            raise UserError(
                f"{config.model} has no {path}, and it does not train; "
                f"add its module to config.adapter.also_train, such as '^{path.split('/')[0]}'"
            )
    return Parts(model, shapes, tokenizer, adapter, task)


def head(config: ConfigDict) -> dict[str, Any]:
    """The head that the task wants of the model: options of `load_pretrained` and `build_model`.

    Raises:
        UserError: there is no such task.
    """
    if config.task not in TASKS:
        raise UserError(f"config.task is {config.task!r}; {nearest(config.task, TASKS)}")
    return dict(TASKS[config.task].head)


def load_any_tokenizer(config: ConfigDict, model: Any) -> BaseTokenizer:
    """The tokenizer that the config names, of the kind that the model reads.

    Raises:
        UserError: it cannot be had, or is of another kind.
    """
    load = load_encoder_tokenizer if model.config.model_type in ("roberta", "bert") else load_tokenizer
    return load(config.tokenizer or config.model)


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
            (*site.path, name): (also if site.also else 1.0) * site.transform.rates.get(name, 1.0)
            for site in adapter.sites(shapes)
            for name in site.factors
        }
    )


def load_base(config: ConfigDict, shardings: Any = None) -> tuple[Any, Any]:
    """The base model and its parameters: pretrained, or drawn at random from the seed.

    What a pretrained checkpoint lacks, such as a new head, is zero: `init_factors` draws it, and it is the adapter's.

    Args:
        config: of the run.
        shardings: where each parameter is to lie: a tree like the parameters'. Default: on one device.

    Raises:
        UserError: the model cannot be had.
    """
    if config.init == "pretrained":
        options = head(config) | model_options(config)
        return load_pretrained(
            config.model, draw=False, report=lambda line: print(f"note: {line}"), shardings=shardings, **options
        )
    model = build_model(config.model, **head(config), **model_options(config))
    params = init_params(model, jax.random.key(config.seed), dtype=model.dtype)
    return model, params if shardings is None else put_tree(params, shardings)


def anywhere(config: ConfigDict) -> ConfigDict:
    """A copy that asks for nothing which only some devices have, and computes the same."""
    config = config.copy_and_resolve_references()
    config.train.attention = "xla"
    return config


def new_params(config: ConfigDict) -> list[str]:
    """The paths of the parameters that the checkpoint lacks."""
    return missing_params(config.model, **head(config)) if config.init == "pretrained" else []


def init_factors(config: ConfigDict, adapter: Adapter, model: Any, params: Any) -> Any:
    """The factors to begin with.

    They are the identity, or those of the adapter `config.adapter.start`; but what the checkpoint lacks begins as the
    model's authors drew it.

    Raises:
        UserError: the adapter to start from is another transformation, acts on other places, or on another base.
    """
    key = jax.random.key(config.seed)
    factors = flatten(jax.jit(adapter.init)(key, params))
    if config.adapter.start:
        factors |= _started(config, adapter, params, factors)
    new = new_params(config)
    if new:
        drawn = flatten(init_params(model, key))
        factors |= {(*path, "d"): drawn[path] for path in map(split, new)}
    return unflatten(factors)


def _started(config: ConfigDict, adapter: Adapter, params: Any, factors: Mapping[Path, Any]) -> dict[Path, Any]:
    """The factors of the adapter to start from, but for those of `also_train`."""
    folder = config.adapter.start
    check_base(folder, params, name=config.model)
    other, started = load_adapter(folder)
    if other.transform != adapter.transform:
        raise UserError(f"config.adapter.start: {folder} is of {other.transform}, and this run of {adapter.transform}")
    given = flatten(stacked_as(started, params))
    wanted = [(*site.path, name) for site in adapter.sites(params) if not site.also for name in site.factors]
    for path in wanted:
        if path not in given or given[path].shape != factors[path].shape:
            raise UserError(
                f"config.adapter.start: {folder} has no {show(path)} as this run has it; "
                f"{nearest(show(path), map(show, given))}"
            )
    return {path: given[path] for path in wanted}


def batching(config: ConfigDict) -> Batching:
    """The batches of training."""
    return Batching(
        config.train.batch_size // config.train.accumulate,
        seed=config.seed,
        length_multiple=config.data.length_multiple,
        slot_multiple=config.data.slot_multiple,
    )


def model_options(config: ConfigDict) -> dict[str, Any]:
    """The options of `load_pretrained` and `build_model`."""
    return {
        "dtype": jnp.dtype(config.dtype),
        "remat": config.train.remat,
        "scan_layers": config.train.scan_layers,
        "attention": config.train.attention,
    }

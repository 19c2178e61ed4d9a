"""From a config to a run: its task, tokenizer, model and adapter, checked to fit each other. No weights are read."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from hut_jax.adapters.adapter import Adapter
from hut_jax.adapters.optimizer import learning_rate_multipliers
from hut_jax.config import RunConfig
from hut_jax.core.errors import UserError
from hut_jax.core.trees import Path, show
from hut_jax.data.tokenizer_base import BaseTokenizer
from hut_jax.models.compute import Compute
from hut_jax.models.hub.pretrained import build_model, init_params, load_pretrained, missing_params
from hut_jax.parallel.processes import put_tree
from hut_jax.tasks import Task, TaskData, task_named
from hut_jax.transforms import Full


@dataclass(frozen=True)
class Run:
    """Everything that a config describes, without the weights.

    Attributes:
        config: the run's.
        task: the task to learn.
        tokenizer: the base's, of the kind that the task needs.
        model: the base with the task's head.
        shapes: the shapes of the base's parameters.
        adapter: the adapter to train.
    """

    config: RunConfig
    task: Task[Any]
    tokenizer: BaseTokenizer
    model: Any
    shapes: PyTree[jax.ShapeDtypeStruct]
    adapter: Adapter

    def load_data(self) -> TaskData:
        """The training and validation examples.

        Raises:
            UserError: the data is missing or malformed, or an example is longer than the model allows.
        """
        data = self.task.load_data(self.config.data, self.tokenizer).limit_validation(self.config.eval.max_examples)
        if data.longest > self.model.config.n_positions:
            raise UserError(
                f"the longest example has {data.longest} tokens, and the model takes at most "
                f"{self.model.config.n_positions}; lower config.data.max_length or config.data.block"
            )
        return data

    def new_parameters(self) -> list[Path]:
        """The paths of the parameters that the checkpoint lacks, such as a new head's. All of them must train.

        Raises:
            UserError: one of them does not train.
        """
        if self.config.init == "random":
            return []
        new = missing_params(self.config.model, head=self.task.head)
        trained = {site.path for site in self.adapter.sites(self.shapes) if type(site.transform) is Full}
        for path in new:
            if path not in trained:
                raise UserError(
                    f"{self.config.model} has no {show(path)}, and it does not train; "
                    f"add its module to config.adapter.also_train, such as '^{path[0]}'"
                )
        return new


def make_run(config: RunConfig) -> Run:
    """The run of a config. Neither data nor weights are read.

    Raises:
        UserError: a part of the run cannot be loaded, or does not fit another part.
    """
    task = task_named(config.task)
    model = make_model(config)
    adapter = config.adapter.make_adapter()
    shapes = param_shapes(model)
    adapter.sites(shapes)  # for its errors: a pattern or a rank that does not fit
    tokenizer = task.load_tokenizer(config.tokenizer or config.model)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise UserError(
            f"the tokenizer {config.tokenizer or config.model} has {tokenizer.vocab_size:,} tokens, and the model "
            f"{config.model} has a vocabulary of {model.config.vocab_size:,}; set config.tokenizer to the model's own"
        )
    if config.decode is not None:
        config.decode.check(model.config)
    return Run(config, task, tokenizer, model, shapes, adapter)


def prepare(config: RunConfig) -> tuple[Run, TaskData]:
    """The run of a config and its data: everything that can be checked before weights are read.

    Raises:
        UserError: a part of the run cannot be loaded, or the parts do not fit each other.
    """
    run = make_run(config)
    data = run.load_data()
    run.new_parameters()  # for its errors
    return run, data


def make_model(config: RunConfig) -> Any:
    """The base with the task's head; only its config.json is read.

    Raises:
        UserError: the model or the task cannot be loaded, or they do not fit each other.
    """
    return build_model(config.model, head=task_named(config.task).head, compute=_compute(config))


def param_shapes(model: Any, dtype: Any = jnp.float32) -> PyTree[jax.ShapeDtypeStruct]:
    """The shapes of a model's parameters."""
    return jax.eval_shape(lambda: init_params(model, jax.random.key(0), dtype=dtype))


def load_base(config: RunConfig, shardings: PyTree[Any] = None) -> tuple[Any, PyTree[jax.Array]]:
    """The base model and its parameters: pretrained, or drawn at random from the seed.

    Parameters that a pretrained checkpoint lacks, such as a new head's, are zero. The adapter holds their values.

    Args:
        config: the run's.
        shardings: the placement of each parameter, a tree like the parameters'. Default: on one device.

    Raises:
        UserError: the model cannot be loaded.
    """
    if config.init == "pretrained":
        return load_pretrained(
            config.model,
            head=task_named(config.task).head,
            compute=_compute(config),
            draw=False,
            report=lambda line: print(f"note: {line}"),
            shardings=shardings,
        )
    model = make_model(config)
    params = init_params(model, jax.random.key(config.seed), dtype=model.dtype)
    return model, params if shardings is None else put_tree(params, shardings)


def multipliers(config: RunConfig, adapter: Adapter, shapes: PyTree[Any]) -> PyTree[float]:
    """The learning-rate multiplier of each factor: a tree like the factors'.

    Args:
        config: the run's.
        adapter: the run's.
        shapes: the shapes of the base's parameters.
    """
    also = config.train.also_train_learning_rate / config.train.learning_rate
    return learning_rate_multipliers(adapter, shapes, also_train=also)


def _compute(config: RunConfig) -> Compute:
    train = config.train
    return Compute(jnp.dtype(config.dtype), train.remat, train.scan_layers, train.attention)

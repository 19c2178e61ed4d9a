"""From a config to a run: its task, tokenizer, model and adapter, checked to fit each other. No weights are read."""

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from hut_jax.adapters.adapter import Adapter
from hut_jax.config import RunConfig
from hut_jax.core.errors import UserError
from hut_jax.core.trees import Path, show
from hut_jax.data.sequences import Sequences
from hut_jax.data.stream import Stream
from hut_jax.data.tokenizer import Tokenizer
from hut_jax.models.compute import Compute
from hut_jax.models.decoder.config import DecoderConfig
from hut_jax.models.hub.pretrained import build_model, init_params, load_params, missing_params
from hut_jax.parallel.processes import put_tree
from hut_jax.tasks import Task, TaskData, task_named
from hut_jax.transforms import Full


@dataclass(frozen=True)
class Base:
    """The base model that a config describes, without the weights.

    Attributes:
        config: the run's.
        task: the task to learn.
        model: the base with the task's head.
        shapes: the shapes of the base's parameters.
    """

    config: RunConfig
    task: Task
    model: Any
    shapes: PyTree[jax.ShapeDtypeStruct]

    def load_base(self, shardings: PyTree[Any] = None) -> PyTree[jax.Array]:
        """The base's parameters: pretrained, or drawn at random from the seed.

        Parameters that a pretrained checkpoint lacks, such as a new head's, are zero. The adapter holds their values.

        Args:
            shardings: the placement of each parameter, a tree like the parameters'. Default: on one device.

        Raises:
            UserError: the weights cannot be loaded.
        """
        if self.config.init == "pretrained":
            return load_params(
                self.model,
                self.config.model,
                head=self.task.head,
                draw=False,
                report=lambda line: print(f"note: {line}"),
                shardings=shardings,
            )
        params = init_params(self.model, jax.random.key(self.config.seed), dtype=self.model.dtype)
        return params if shardings is None else put_tree(params, shardings)


@dataclass(frozen=True)
class Run(Base):
    """Everything that a config describes, without the weights.

    Attributes:
        tokenizer: the base's, of the kind that the task needs.
        adapter: the adapter to train.
    """

    tokenizer: Tokenizer
    adapter: Adapter

    def load_data(self) -> TaskData:
        """The training and validation examples.

        Raises:
            UserError: the data is missing or malformed, too little to hold out `config.eval.holdout`, or an example is
                longer than the model allows or has a token that the model lacks.
        """
        data = self.task.load_data(self.config.data, self.tokenizer).hold_out(self.config.eval.holdout)
        data = data.limit_validation(self.config.eval.max_examples)
        most, field = self.model.config.n_positions, self.config.data.length_field
        if data.longest > most:
            told = f"the longest example has {data.longest} tokens, and the model takes at most {most}; lower "
            told += f"config.data.{field}"
            if isinstance(data.train, Stream):  # not every example was looked at
                told = f"config.data.{field} is {self.config.data.longest}, and the model takes at most {most} tokens; "
                told += f"set it to {most + 1} or less"
            raise UserError(told)
        size, splits = self.model.config.vocab_size, (data.train, *data.validation.values())
        largest = max((int(split.tokens.max()) for split in splits if isinstance(split, Sequences)), default=0)
        if largest >= size:
            raise UserError(
                f"the data has the token {self.tokenizer.decode([largest])!r}, which was added to the tokenizer, and "
                f"the model has a vocabulary of {size:,}; set config.tokenizer to one without it"
            )
        if isinstance(data.train, Stream):
            data.train.limit_tokens(size)
            return data
        return replace(data, train=self.config.data.rows(data.train, self.config.seed))

    @cached_property
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
    base = make_base(config)
    adapter = config.adapter.make_adapter()
    adapter.sites(base.shapes)  # for its errors: a pattern or a rank that does not fit
    tokenizer = base.task.load_tokenizer(config.tokenizer or config.model, base.model.config)
    base.task.fit_tokenizer(tokenizer, config.data)
    _check_vocabulary(base, tokenizer)
    base = replace(base, model=_with_padding(base.model, tokenizer))
    if config.decode is not None:
        config.decode.check(base.model.config)
    return Run(**parts(base), tokenizer=tokenizer, adapter=adapter)


def _with_padding(model: Any, tokenizer: Tokenizer) -> Any:
    """The model with the tokenizer's padding in its config: transformers finds a decoder's last token by it."""
    config = model.config
    if not isinstance(config, DecoderConfig) or config.head != "classification":
        return model
    return model.clone(config=replace(config, pad_token_id=tokenizer.special("pad")))


def _check_vocabulary(base: Base, tokenizer: Tokenizer) -> None:
    """Check that the model has the tokenizer's tokens. A causal model may lack added ones, such as a pad token.

    Raises:
        UserError: the model lacks other tokens.
    """
    size, name = base.model.config.vocab_size, base.config.tokenizer or base.config.model
    if tokenizer.vocab_size <= size:
        return
    added = set(tokenizer.auto.get_added_vocab().values())
    plain = tokenizer.vocab_size - len([token for token in added if token >= size]) <= size
    if base.task.head.name != "causal" or not plain or tokenizer.eos_id >= size:
        raise UserError(
            f"the tokenizer {name} has {tokenizer.vocab_size:,} tokens, and the model {base.config.model} has a "
            f"vocabulary of {size:,}; set config.tokenizer to one whose tokens the model all has"
        )


def make_base(config: RunConfig) -> Base:
    """The base of a config. Only the model's config.json is read.

    Raises:
        UserError: the model or the task cannot be loaded, or they do not fit each other.
    """
    task, train = task_named(config.task), config.train
    compute = Compute(jnp.dtype(config.dtype), train.remat, train.scan_layers, train.attention)
    model = build_model(config.model, head=task.head, compute=compute)
    return Base(config, task, model, jax.eval_shape(lambda: init_params(model, jax.random.key(0), dtype=model.dtype)))


def parts(base: Base) -> dict[str, Any]:
    """The attributes of a base or a run by name, for one that adds more to them."""
    return {field.name: getattr(base, field.name) for field in fields(base)}


def prepare(config: RunConfig) -> tuple[Run, TaskData]:
    """The run of a config and its data: everything that can be checked before weights are read.

    Raises:
        UserError: a part of the run cannot be loaded, or the parts do not fit each other.
    """
    run = make_run(config)
    data = run.load_data()
    _ = run.new_parameters  # for its errors
    return run, data


def multipliers(config: RunConfig, adapter: Adapter, shapes: PyTree[Any]) -> PyTree[float]:
    """The learning-rate multiplier of each factor: a tree like the factors'.

    Args:
        config: the run's.
        adapter: the run's.
        shapes: the shapes of the base's parameters.
    """
    also = config.train.also_train_learning_rate / config.train.learning_rate
    return adapter.learning_rate_multipliers(shapes, also_train=also)

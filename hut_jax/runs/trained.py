"""A trained run, loaded from its workdir."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from jaxtyping import Array, PyTree

from hut_jax.adapters.files import load_adapter, read_description
from hut_jax.config import RunConfig, flatten_config, with_fields
from hut_jax.core.errors import UserError, nearest
from hut_jax.core.sections import defaults
from hut_jax.data.batching import Batch
from hut_jax.data.loss import Evaluated
from hut_jax.generation.config import DecodeConfig
from hut_jax.runs import config_files
from hut_jax.runs.run import Run, make_run, parts
from hut_jax.runs.workdir import ADAPTER, read_config
from hut_jax.tasks import TASKS, Ability, task_named
from hut_jax.training.evaluation import Evaluation

CHANGEABLE = ("decode.", "data.dir", "data.cache", "model", "tokenizer", "dtype", "seed")
"""The fields that may change after training: decoding, the paths of files, the dtype and the seed."""

T = TypeVar("T", bound=Ability)


@dataclass(frozen=True)
class TrainedRun(Run):
    """A run with its weights; its adapter is the trained one.

    Attributes:
        params: the base's parameters.
        factors: the best factors of the run.
    """

    params: PyTree[Array]
    factors: PyTree[Array]

    def merge(self) -> PyTree[Array]:
        """Merge the factors into the base: the result is the parameters of a plain model that computes the same.

        Raises:
            UserError: a merged parameter is not finite.
        """
        return self.adapter.merge(self.params, self.factors)

    def plain_evaluation(self) -> Callable[[PyTree[Array], Iterable[Batch]], Evaluated]:
        """A function that evaluates a plain model on batches, for parameters such as the base's or the merged ones.

        It is compiled once for all parameters.
        """

        def forward(params: PyTree[Array], _: Any, *args: Any, **kwargs: Any) -> Array:
            return self.model.apply({"params": params}, *args, **kwargs)

        evaluation = Evaluation(forward, self.task.loss(self.tokenizer))
        return lambda params, batches: evaluation(params, {}, batches)


def load_run(
    workdir: Path, config: RunConfig | None = None, *, scan_layers: bool | None = None, force: bool = False
) -> TrainedRun:
    """Load the trained run in a workdir, on one device. The config's options for particular devices are ignored.

    Args:
        workdir: the run's.
        config: the run's, if `read_trained_config` has read it already.
        scan_layers: whether the layers are one `nn.scan`; default: as in training.
        force: load the base even if it is not the one that the adapter was trained on.

    Raises:
        UserError: there is no trained run, or a part of it cannot be loaded or does not fit another part.
    """
    config = read_trained_config(workdir) if config is None else config
    scan_layers = config.train.scan_layers if scan_layers is None else scan_layers
    config = with_fields(config, {"train.attention": "xla", "train.scan_layers": scan_layers})
    run = make_run(config)
    params = run.load_base()
    adapter, factors = load_adapter(workdir / ADAPTER, params, name=config.model, force=force)
    return TrainedRun(**parts(run) | {"adapter": adapter}, params=params, factors=factors)


def read_trained_config(workdir: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The config of a trained run, with `--config.field=value` arguments applied.

    Raises:
        UserError: there is no run with an adapter, or an argument changes a field that is fixed after training.
    """
    config = read_config(workdir)
    read_description(workdir / ADAPTER)  # for its errors
    fields = [field for field in flatten_config(config) if field.startswith(CHANGEABLE)]
    for argument in overrides:
        name = argument.partition("=")[0]
        field = name.removeprefix("--config.")
        if name.startswith("--") and field == name:
            raise UserError(f"unknown argument {name}; {nearest(name, ['--workdir', '--config.decode.beams'])}")
        if name.startswith("--") and field not in fields:
            raise UserError(f"config.{field} cannot be changed after training; {nearest(field, fields)}")
    return config_files.overridden(config, overrides)


def list_changeable() -> str:
    """List the fields that `read_trained_config` can change, for `--help`."""
    others = ", ".join(field for field in CHANGEABLE if not field.endswith("."))
    decode = config_files.list_section("decode", DecodeConfig, defaults(DecodeConfig))
    return (
        f"The config is in the workdir's config.json. --config.FIELD=VALUE changes {others}\n"
        f"and these fields, which are listed with their defaults:\n\n{decode}"
    )


def task_that(ability: type[T], workdir: Path, config: RunConfig) -> T:
    """The run's task, checked to have an ability such as `GeneratesText`.

    Raises:
        UserError: the task does not have the ability. The message names the tasks that do.
    """
    task = task_named(config.task)
    if not isinstance(task, ability):
        able = ", ".join(repr(name) for name, other in TASKS.items() if isinstance(other, ability))
        raise UserError(
            f"the run in {workdir} is of the task {task.name!r}, which {ability.lacks}; those that do: {able}"
        )
    return task

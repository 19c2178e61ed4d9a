"""A trained run, loaded from its workdir."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from jaxtyping import Array, PyTree

from hut_jax.adapters.files import load_adapter, read_description
from hut_jax.config import RunConfig, flatten_config, with_fields
from hut_jax.core.cli import FIELD, Parser
from hut_jax.core.errors import UserError, nearest
from hut_jax.core.locate import NotFound
from hut_jax.core.sections import defaults, fields_of
from hut_jax.data.batching import Batch
from hut_jax.data.loss import Evaluated
from hut_jax.generation.config import DecodeConfig
from hut_jax.runs import config_files
from hut_jax.runs.result import read_kept
from hut_jax.runs.run import Run, make_run, parts
from hut_jax.runs.workdir import ADAPTER, read_config
from hut_jax.tasks import TASKS, Ability, task_named
from hut_jax.training.evaluation import Evaluation

CHANGEABLE = (
    *("model", "tokenizer", "data.dir", "data.cache", "data.text", "data.template"),  # where the files are now
    *("eval.batch_size", "data.length_multiple"),  # the batches of predictions
    *("dtype", "seed", "decode."),
)
"""The fields that may change after training. Fields of a section end in a dot."""

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
        force: load the base and the tokenizer even if they are not those of the training.

    Raises:
        UserError: there is no trained run, or a part of it cannot be loaded or does not fit another part.
    """
    config = read_trained_config(workdir) if config is None else config
    scan_layers = config.train.scan_layers if scan_layers is None else scan_layers
    config = with_fields(config, {"train.attention": "xla", "train.scan_layers": scan_layers})
    try:
        run = make_run(config)
    except NotFound as error:
        moved = " or --config.tokenizer=FOLDER" if config.tokenizer else ""
        raise UserError(f"{error}; if it has moved, say where it is: --config.model=FOLDER{moved}") from None
    known = read_kept(workdir).get("tokenizer")  # runs of earlier versions have none
    if known is not None and not force and known != run.tokenizer.fingerprint:
        raise UserError(
            f"{config.tokenizer or config.model} is not the tokenizer that the run was trained with; name that one "
            "with --config.tokenizer=FOLDER, or take this one with --force"
        )
    params = run.load_base()
    adapter, factors = load_adapter(workdir / ADAPTER, params, name=config.model, force=force)
    return TrainedRun(**parts(run) | {"adapter": adapter}, params=params, factors=factors)


def run_parser(module: str, doc: str, *, verb: str, decodes: bool = False) -> Parser:
    """The parser of a command on a trained run, with what all these commands have.

    Args:
        module: the command's.
        doc: what it does.
        verb: the same in one word, such as "evaluate".
        decodes: whether `--help` lists the fields of decoding.
    """
    parser = Parser(module, doc)
    parser.add_argument("--workdir", required=True, type=Path, metavar="FOLDER", help="the folder of the run")
    parser.add_argument("--force", action="store_true", help=f"{verb} even if the base is not the one trained on")
    others = [field for field in CHANGEABLE if not field.endswith(".")]
    parser.fields = others + [f"decode.{name}" for name in fields_of(DecodeConfig) if decodes]
    parser.epilog = f"The config is in the workdir's config.json. --config.FIELD=VALUE changes {', '.join(others)}"
    if decodes:
        decode = config_files.list_section("decode", DecodeConfig, defaults(DecodeConfig))
        parser.epilog += f"\nand these fields, which are listed with their defaults:\n\n{decode}"
    return parser


def parse_with_run(parser: Parser, argv: Sequence[str]) -> tuple[argparse.Namespace, RunConfig]:
    """The arguments, and the config of the run in `--workdir` with every `--config.field=value` applied.

    Args:
        parser: from `run_parser`, with the command's own options.
        argv: the command line.

    Raises:
        UserError: as `read_trained_config`, or an argument is missing.
    """
    try:
        args, overrides = parser.parse_known_args(argv)
    except UserError:
        given = [argument.partition("=")[0].removeprefix(FIELD) for argument in argv if argument.startswith(FIELD)]
        for field in given:
            if field not in parser.fields:  # a misspelt field is named even if an option is missing
                raise UserError(_fixed(field, parser.fields)) from None
        raise
    return args, read_trained_config(args.workdir, overrides)


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
            raise UserError(f"unknown argument {name}; {nearest(name, [f'--config.{field}' for field in fields])}")
        if name.startswith("--") and field not in fields:
            raise UserError(_fixed(field, fields))
    return config_files.overridden(config, overrides)


def _fixed(field: str, fields: Sequence[str]) -> str:
    """The message for a field that there is not, or that is fixed after training."""
    return f"config.{field} cannot be changed after training; {nearest(field, fields)}"


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

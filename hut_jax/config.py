"""The config of a run: users write an ml_collections ConfigDict, and the code reads a frozen `RunConfig`.

`freeze` turns a ConfigDict into a `RunConfig`, and `thaw` is its inverse. Each section is defined in the layer that
reads it, with the default, meaning and range of each field.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any, Literal

from ml_collections import ConfigDict
from pydantic import Field

from hut_jax.adapters import config as adapters
from hut_jax.adapters.config import AdapterConfig
from hut_jax.core.errors import UserError, nearest
from hut_jax.core.sections import build, defaults, fields_of, section
from hut_jax.generation.config import DecodeConfig
from hut_jax.parallel.config import MeshConfig
from hut_jax.tasks import TASKS, GeneratesText, task_named
from hut_jax.training.config import CheckpointConfig, EvalConfig, LogConfig, TrainConfig

FORMAT = 2
"""The version of the format of config.json. In version 1 every task had the fields of all tasks."""
ADDED: dict[str, dict[str, Any]] = {"eval": {"holdout": 0.0, "on_start": True}, "data": {"pack": 0}}
"""Fields that the format has had since a later release, and what the runs of earlier releases had."""


@section
class RunConfig:
    """A run: what is learned, on which base, with which adapter, and how.

    The learning rates are resolved: a learning rate of 0 is replaced by the transformation's own.
    """

    task: str = Field(description=f"what is learned: {', '.join(TASKS)}")
    model: str = Field(default="", description="the base: a hub name, or a folder in Hugging Face's layout")
    init: Literal["pretrained", "random"] = Field(
        default="pretrained", description="'random' reads only the base's config.json and draws random weights"
    )
    tokenizer: str = Field(default="", description="the tokenizer: a hub name or a folder; empty: the base's own")
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="the dtype of the base and of the computation; factors are float32"
    )
    seed: int = Field(
        default=0, ge=0, lt=2**32, description="the seed of factors, the data's order, dropout and random weights"
    )
    data: Any = Field(description="the task's data: TASKS[task].data_section")
    adapter: AdapterConfig = AdapterConfig()
    train: TrainConfig = TrainConfig()
    log: LogConfig = LogConfig()
    eval: EvalConfig = EvalConfig()
    decode: Any = Field(default=None, description="a DecodeConfig where the task generates text, else None")
    checkpoint: CheckpointConfig = CheckpointConfig()
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self):
        sections = sections_of(self.task)
        for name in ("data", "decode"):
            wanted = sections.get(name, type(None))
            if type(getattr(self, name)) is not wanted:
                raise UserError(f"config.{name} must be a {wanted.__name__}, as config.task is {self.task!r}")
        if not self.model:
            raise UserError("config.model is empty; give a hub name such as gpt2-medium, or a folder")
        object.__setattr__(self, "train", self.train.resolved(self.adapter.transform))


SECTIONS: dict[str, type] = {
    "train": TrainConfig,
    "log": LogConfig,
    "eval": EvalConfig,
    "checkpoint": CheckpointConfig,
    "mesh": MeshConfig,
}
"""The sections that are the same for all tasks."""


def sections_of(task: str) -> dict[str, type]:
    """The sections of this task's configs by name, without `adapter`, which depends on the transformation.

    Raises:
        UserError: there is no such task.
    """
    own = {"data": task_named(task).data_section}
    decode = {"decode": DecodeConfig} if isinstance(task_named(task), GeneratesText) else {}
    return own | decode | SECTIONS


def default_config(task: str = "e2e") -> ConfigDict:
    """A config of this task, with every field at its default. It is locked: setting a misspelt field is an error.

    Raises:
        UserError: there is no such task.
    """
    config = ConfigDict(_defaults(task))
    config.lock()
    return config


def set_task(config: ConfigDict, task: str) -> None:
    """Change the task of `config`: `data` becomes the section of the new task, which has `decode` if it generates text.

    A section that both tasks have keeps its values. A new section has its defaults.

    Raises:
        UserError: there is no such task.
    """
    old, new = sections_of(config.task), sections_of(task)
    with config.unlocked():
        for name in old.keys() - new.keys():
            del config[name]
        for name, kind in new.items():
            if old.get(name) is not kind:
                config[name] = ConfigDict(defaults(kind))
        config.task = task


def set_transform(config: ConfigDict, name: str, **settings: Any) -> None:
    """Change the transformation of `config.adapter`: the settings become those of the transformation `name`.

    Another transformation brings its own learning rate: `config.train.learning_rate` becomes 0.

    Raises:
        UserError: there is no such transformation, or it has no such setting.
    """
    fields = adapters.default_fields(name, **settings)
    own = {field: config.adapter[field] for field in adapters.OWN_FIELDS}
    if name != config.adapter.name:
        config.train.learning_rate = 0.0
    with config.unlocked():
        config.adapter = ConfigDict(fields | own)


def freeze(config: ConfigDict | Mapping[str, Any]) -> RunConfig:
    """Check a config and make a `RunConfig` of it.

    Raises:
        UserError: a field is unknown or missing, has the wrong type, or is out of its range.
    """
    fields = _tuples(config.to_dict() if isinstance(config, ConfigDict) else config)
    given = flatten_config(fields)
    if "task" not in given:
        raise UserError(f"config.task is missing; valid: {', '.join(map(repr, TASKS))}")
    task = str(given["task"])
    known = flatten_config(_defaults(task, str(given.get("adapter.name", adapters.DEFAULT))))
    for field in sorted(given.keys() - known.keys()):
        hint = f"; set the task by set_task(config, {task!r})" if tasks_with(field) else ""
        raise UserError(unknown(field, task, known) + hint)
    for field in sorted(known.keys() - given.keys()):
        raise UserError(f"config.{field} is missing; its default is {known[field]!r}")
    made: dict[str, Any] = {
        name: build(kind, fields[name], f"config.{name}") for name, kind in sections_of(task).items()
    }
    made["adapter"] = adapters.from_fields(fields["adapter"])
    return build(RunConfig, fields | made, "config")


def thaw(config: RunConfig) -> ConfigDict:
    """The inverse of `freeze`: a locked ConfigDict with the same values."""
    thawed = ConfigDict(to_fields(config))
    thawed.lock()
    return thawed


def with_fields(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """The config with some fields changed, such as `{"train.batch_size": 4}`.

    Raises:
        UserError: as `freeze`.
    """
    changed = thaw(config)
    changed.update_from_flattened_dict(changes)
    return freeze(changed)


def to_fields(config: RunConfig) -> dict[str, Any]:
    """The config as nested dicts, with the fields that a ConfigDict has."""

    def fields(value: Any) -> Any:
        if isinstance(value, AdapterConfig):
            return value.to_fields()
        return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value

    values = {name: getattr(config, name) for name in fields_of(RunConfig)}
    return {name: fields(value) for name, value in values.items() if value is not None}


def flatten_config(config: RunConfig | ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """The fields by their dotted names."""
    return dict(_flat(to_fields(config) if isinstance(config, RunConfig) else config))


def to_json(config: RunConfig) -> str:
    """The text of a workdir's config.json."""
    return json.dumps({"version": FORMAT, **to_fields(config)}, indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> RunConfig:
    """The inverse of `to_json`; reads earlier versions too.

    Raises:
        UserError: the text is not a config of this version or an earlier one.
        ValueError: the text is not a JSON object.
    """
    fields = json.loads(text)
    if not isinstance(fields, dict):
        raise ValueError("it is not a JSON object")
    return freeze(_upgraded(fields))


def _upgraded(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the fields of a config.json of any version to those of this version."""
    version = fields.get("version", 1)
    if version not in (1, FORMAT):
        raise UserError(f"its version is {version!r}, and this hut_jax reads 1 to {FORMAT}")
    fields = {name: value for name, value in fields.items() if name != "version"}
    task = str(fields.get("task"))
    for name, added in ADDED.items():
        if task in TASKS and isinstance(fields.get(name), dict):
            own = _fields(task, name)
            fields[name] = {field: value for field, value in added.items() if field in own} | fields[name]
    data = fields.get("data")
    if version == 1 and task in TASKS and isinstance(data, dict):
        sections = sections_of(task)
        others = {field for other in TASKS.values() for field in fields_of(other.data_section)}
        never_read = others - {*fields_of(sections["data"])}
        fields["data"] = {field: value for field, value in data.items() if field not in never_read}
        if "decode" not in sections:
            fields.pop("decode", None)
    return fields


def unknown(field: str, task: str, known: Iterable[str]) -> str:
    """The message for a field that a config does not have.

    Args:
        field: its dotted name, without "config.".
        task: the config's task.
        known: the fields that the config has.
    """
    having = tasks_with(field)
    if having:
        several = "the tasks" if len(having) > 1 else "the task"
        return f"config.{field} is a field of {several} {', '.join(map(repr, having))}; config.task is {task!r}"
    return f"unknown config field config.{repr(field)[1:-1]}; {nearest(field, known)}"  # repr keeps it on one line


def tasks_with(field: str) -> list[str]:
    """The tasks that have this field in a section that differs between tasks."""
    name, _, rest = field.partition(".")
    if name not in ("data", "decode"):
        return []
    return [task for task in TASKS if rest in _fields(task, name)]


def _fields(task: str, section: str) -> Iterable[str]:
    sections = sections_of(task)
    return fields_of(sections[section]) if section in sections else ()


def _defaults(task: str, transform: str = adapters.DEFAULT) -> dict[str, Any]:
    """The default of every field for this task and transformation, as nested dicts."""
    sections = {name: defaults(kind) for name, kind in sections_of(task).items()}
    sections["adapter"] = adapters.default_fields(transform)
    own = {name: value for name, value in defaults(RunConfig).items() if name not in (*sections, "decode")}
    return own | {"task": task} | sections


def _flat(fields: Mapping[str, Any] | ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, ConfigDict | Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _tuples(value: Any) -> Any:
    """The same value with tuples in place of lists: JSON has no tuples."""
    if isinstance(value, Mapping):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value

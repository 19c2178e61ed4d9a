"""Config files with overrides from the command line, and the configs of the package by name."""

import argparse
import inspect
import re
import runpy
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from hut_jax.adapters.config import AdapterConfig
from hut_jax.config import RunConfig, flatten_config, freeze, sections_of, set_task, set_transform, thaw, unknown
from hut_jax.core.cli import FIELD, Parser
from hut_jax.core.errors import UserError, nearest
from hut_jax.core.sections import attributes, fields_of, meaning
from hut_jax.transforms import TRANSFORMS

_PACKAGE = Path(__file__).resolve().parents[1]
FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")
"""Where the package's configs may lie: within it, as a wheel has them, or beside it, as in a clone."""
HELP_COLUMN = 44
HELP_WIDTH = 120


def parse_with_config(
    parser: Parser, argv: Sequence[str], default: str | None = None
) -> tuple[argparse.Namespace, RunConfig]:
    """The arguments, and the config of `--config=NAME` with every `--config.field=value` applied.

    `NAME` is that of one of the package's configs, such as `e2e`, or a file; see `load_config_file`. Another
    transformation (`--config.adapter.name=full`) brings its own settings and learning rate, and another task
    (`--config.task=mlm`) its own sections. `--help` lists the fields of the config.

    Args:
        parser: has the command's own options.
        argv: the command line.
        default: the config if none is given. Without a default, --config is required.

    Raises:
        UserError: an argument or field is unknown, a value has the wrong type, or the config is invalid.
    """
    parser.add_argument(
        "--config",
        required=default is None,
        default=default,
        metavar="NAME",
        help=f"a config of the package ({', '.join(own_configs())}) or a file, such as mine.py; with --help, list its "
        "fields",
    )
    parser.epilog = "any field of the config can be set: --config.train.steps=100"
    if {"--help", "-h"} & {*argv}:
        config = _config_on(argv, default)
        parser.epilog = parser.epilog if config is None else list_fields(config)
    try:
        args, overrides = parser.parse_known_args(argv)
    except UserError:
        _config_on(argv, default)  # a misspelt field is named even if a required option is missing
        raise
    config = load_config_file(args.config)
    override(config, overrides)
    return args, freeze(config)


def own_configs() -> dict[str, Path]:
    """The file of each of the package's configs, by name."""
    folder = next((folder for folder in FOLDERS if folder.is_dir()), FOLDERS[0])
    return {path.stem: path for path in sorted(folder.glob("*.py")) if path.stem != "__init__"}


def load_config_file(spec: str) -> ConfigDict:
    """The config of this name.

    Args:
        spec: `e2e`, one of the package's configs, or `mine.py`, a file that defines `get_config()`. Text after a colon,
            as in `glue:mrpc`, is the argument of `get_config`.

    Raises:
        UserError: there is no such config, or running its file does not give one.
    """
    name, _, argument = spec.partition(":")
    path = str(own_configs().get(name, name))
    if not Path(path).is_file():
        raise UserError(_no_config(name))
    try:
        get_config = runpy.run_path(path)["get_config"]
        config = get_config(argument) if argument else get_config()
    except UserError:
        raise
    except Exception as error:  # whatever goes wrong in a config file is its writer's mistake
        # For a misspelt field, ml_collections' own message lists all fields before the nearest one.
        text = re.sub(r'Other fields present: "\{.*\}"', "", str(error).strip("'\"").replace("\\n", " "))
        text = " ".join(text.split())
        raise UserError(f"config file {path}: {type(error).__name__}: {text}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"config file {path}: get_config() gives a {type(config).__name__}, not a ConfigDict")
    return config


def override(config: ConfigDict, arguments: Sequence[str]) -> None:
    """Apply `--config.field=value` arguments to the config, with its fields' types.

    Raises:
        UserError: there is no such field, or the value is not of its type.
    """
    given = dict(_fields(arguments))
    if given.get("task", config.task) != config.task:
        set_task(config, given["task"])
    if given.get("adapter.name", config.adapter.name) != config.adapter.name:
        set_transform(config, given["adapter.name"])
    fields = flatten_config(config)
    for name in given:
        if name not in fields:
            raise UserError(unknown(name, config.task, fields))
    argv = ["", *arguments]
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
        rest = values(argv)[1:]
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(" ".join(str(error).replace("flag --", "").split())) from None
    if rest:
        raise UserError(f"argument {rest[0]!r} belongs to no option; fields are set as --config.field=value")


def overridden(config: RunConfig, arguments: Sequence[str]) -> RunConfig:
    """The config with `--config.field=value` arguments applied.

    Raises:
        UserError: there is no such field, or the value has the wrong type or is out of range.
    """
    changed = thaw(config)
    override(changed, arguments)
    return freeze(changed)


def list_fields(config: ConfigDict) -> str:
    """List the fields of the config with their values and meanings, one paragraph for each section."""
    sections: dict[str, type] = {**sections_of(config.task), "adapter": AdapterConfig}
    own = {name: meaning(info) for name, info in fields_of(RunConfig).items() if name in {*config} - {*sections}}
    paragraphs = [_paragraph("config: a run", "", own, config)]
    paragraphs += [
        list_section(name, sections[name], config[name]) for name in fields_of(RunConfig) if name in sections
    ]
    return "\n\n".join(paragraphs)


def list_section(name: str, kind: type, values: ConfigDict | Mapping[str, Any]) -> str:
    """List the fields of a section with their values and meanings.

    Args:
        name: the section's name in a config, such as "train".
        kind: its class.
        values: the values of its fields.
    """
    meanings = {field: meaning(info) for field, info in fields_of(kind).items()}
    if kind is AdapterConfig:
        meanings = {"name": meanings.pop("transform")} | attributes(TRANSFORMS[values["name"]]) | meanings
    doc = inspect.cleandoc(kind.__doc__ or "").partition("\n")[0].rstrip(".")
    return _paragraph(f"config.{name}: {doc[0].lower()}{doc[1:]}", f"{name}.", meanings, values)


def _paragraph(title: str, prefix: str, meanings: Mapping[str, str], values: ConfigDict | Mapping[str, Any]) -> str:
    lines = [title]
    for name, text in meanings.items():
        left = f"  --config.{prefix}{name}={values[name]}"
        begin = f"{left:<{HELP_COLUMN}}" if len(left) <= HELP_COLUMN - 2 else f"{left}\n{' ' * HELP_COLUMN}"
        wrapped = textwrap.wrap(text, HELP_WIDTH - HELP_COLUMN)
        lines.append(begin + f"\n{' ' * HELP_COLUMN}".join(wrapped))
    return "\n".join(lines)


def _config_on(argv: Sequence[str], default: str | None) -> ConfigDict | None:
    """The config of the command line with its fields set, whatever else is there; None if it names no config."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--config", default=default)
    try:
        args, rest = finder.parse_known_args(argv)
    except argparse.ArgumentError:
        return None
    if args.config is None:
        return None
    config = load_config_file(args.config)
    override(config, [f"{FIELD}{name}={value}" for name, value in _fields(rest)])
    return config


def _fields(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The fields and values of `--config.field=value` and `--config.field value` arguments."""
    for argument, after in pairwise([*arguments, ""]):
        if argument.startswith(FIELD):
            name, equals, value = argument.removeprefix(FIELD).partition("=")
            yield name, value if equals else after


def _no_config(name: str) -> str:
    """The message for the name of a config that there is not."""
    own, path = own_configs(), Path(name)
    if path.stem in own:
        return f"no config file {name!r}; the package's own config of this name is --config={path.stem}"
    folder = path.parent
    beside = [str(file) for file in sorted(folder.glob("*.py"))] if folder.is_dir() else []
    if path.name == path.stem == name:
        return f"the package has no config {name!r}, and there is no such file; {nearest(name, [*own, *beside])}"
    return f"no config file {name!r}; {nearest(name, beside) if beside else f'{folder} has none'}"

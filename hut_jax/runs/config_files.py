"""Config files with overrides from the command line."""

import argparse
import re
import runpy
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from hut_jax.config import flatten_config, set_transform, validate
from hut_jax.core.cli import Parser
from hut_jax.core.errors import UserError, nearest


def parse_with_config(
    parser: Parser, argv: Sequence[str], default: str | None = None
) -> tuple[argparse.Namespace, ConfigDict]:
    """The arguments, and the config of `--config=FILE` with every `--config.field=value` applied.

    `FILE` defines `get_config()`; `FILE:TEXT` calls `get_config("TEXT")`. Naming another transformation
    (`--config.adapter.name=full`) brings that transformation's settings and rate with it. `default` is the file
    where none is given; without it one must be.

    Raises:
        UserError: an argument or field is unknown, a value has the wrong type, or the config is invalid.
    """
    parser.add_argument(
        "--config",
        required=default is None,
        default=default,
        metavar="FILE",
        help=f"the config file, such as {default or 'configs/e2e.py'}",
    )
    parser.epilog = "any field of the config can be set: --config.train.steps=100"
    args, overrides = parser.parse_known_args(argv)
    for argument in overrides:
        if argument.startswith("--") and not argument.startswith("--config."):
            options = [option for action in parser._actions for option in action.option_strings]
            raise UserError(f"unknown argument {argument.split('=')[0]}; {nearest(argument.split('=')[0], options)}")
    config = load_config_file(args.config)
    override(config, overrides)
    validate(config)
    return args, config


def load_config_file(spec: str) -> ConfigDict:
    """The config that the file gives.

    Raises:
        UserError: there is no such file, or running it does not give a config.
    """
    path, _, argument = spec.partition(":")
    if not Path(path).is_file():
        raise UserError(f"no config file {path!r}; {_configs_beside(path)}")
    try:
        get_config = runpy.run_path(path)["get_config"]
        config = get_config(argument) if argument else get_config()
    except UserError:
        raise
    except Exception as error:  # whatever a config file does wrong is its writer's mistake, and told in one line
        # ml_collections' own message for a misspelt field lists every other one before the nearest.
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
    names = [argument.removeprefix("--config.").partition("=")[0] for argument in arguments if argument[:2] == "--"]
    for argument in arguments:
        field, _, value = argument.partition("=")
        if field == "--config.adapter.name" and value != config.adapter.name:
            set_transform(config, value)
            config.train.learning_rate = 0.0  # its own: the file's was meant for the other
    fields = flatten_config(config)
    for name in names:
        if name not in fields:
            raise UserError(f"unknown config field config.{name}; {nearest(name, fields)}")
    argv = ["", *arguments]
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
        rest = values(argv)[1:]
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(" ".join(str(error).replace("flag --", "").split())) from None
    if rest:
        raise UserError(f"argument {rest[0]!r} belongs to no option; fields are set as --config.field=value")


def _configs_beside(path: str) -> str:
    folder = Path(path).parent
    found = [str(file) for file in sorted(folder.glob("*.py"))] if folder.is_dir() else []
    return nearest(path, found) if found else f"{folder} has none"

"""The parser of the commands: what it names, and how."""

import sys
from pathlib import Path

import pytest

from hut_jax import cost, evaluate, generate, merge, predict, train
from hut_jax.core import cli
from hut_jax.core.errors import UserError


@pytest.mark.parametrize("command", [train, evaluate, generate, predict, merge, cost])
def test_a_misspelt_option_is_named_although_the_one_that_was_meant_is_missing(command):
    with pytest.raises(UserError, match=r"^unknown argument --forse"):
        command.main(["--forse", "--config.seed=1"])


def test_the_nearest_option_is_named():
    with pytest.raises(UserError, match=r"^unknown argument --wrkdir; did you mean '--workdir'\?$"):
        merge.main(["--wrkdir=run", "--output=merged"])
    with pytest.raises(UserError, match=r"required: --output; python -m hut_jax.merge --help lists the arguments$"):
        merge.main(["--workdir=run"])


def test_a_value_may_look_like_an_option():
    parser = cli.Parser("hut_jax.some", "doc")
    parser.add_argument("--text")
    parser.add_argument("rest", nargs="*")
    args = parser.parse_args(["--text=--no-such", "--", "--neither"])
    assert (args.text, args.rest) == ("--no-such", ["--neither"])


def test_help_is_given_whatever_else_stands_there(capsys):
    with pytest.raises(SystemExit) as ended:
        merge.main(["--wrkdir=run", "--help"])
    assert ended.value.code == 0
    assert "--workdir FOLDER" in capsys.readouterr().out


def test_a_console_script_is_called_by_its_own_name(monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(Path("bin/hut-merge").absolute()), "--workdir=run"])
    with pytest.raises(UserError, match=r"required: --output; hut-merge --help lists the arguments$"):
        merge.main(["--workdir=run"])


def test_a_console_script_ends_with_one_line_and_2(monkeypatch, capsys):
    monkeypatch.setattr(cli, "keep_compiled", lambda: None)
    monkeypatch.setattr(cli.gc, "freeze", lambda: None)
    monkeypatch.setattr(sys, "argv", ["hut-merge", "--wrkdir=nowhere", "--output=merged"])
    with pytest.raises(SystemExit) as ended:
        merge.script()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: unknown argument --wrkdir; did you mean '--workdir'?\n"

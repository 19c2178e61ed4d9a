"""The command line: what is taken, and what is answered with one line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hut_jax import HUT, Full, evaluate, generate, merge, predict
from hut_jax.core import cli
from hut_jax.core.errors import UserError
from hut_jax.core.sections import fields_of
from hut_jax.generation.config import DecodeConfig
from hut_jax.runs import config_files

QUICKSTART = "--config=configs/quickstart.py"


def parse(*argv):
    parser = cli.Parser("hut_jax.train", "doc")
    parser.add_argument("--workdir")
    return config_files.parse_with_config(parser, argv)


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])


def test_fields_are_set_with_their_types():
    _, config = parse(
        QUICKSTART,
        "--config.train.steps=7",
        "--config.train.learning_rate=1",
        "--config.adapter.scale=false",
        "--config.adapter.targets=('mlp/up', 'query')",
        "--config.adapter.ranks=(('mlp', 4),)",
        "--config.adapter.exclude=layer_0",
        "--config.seed",
        "5",
    )
    assert (config.train.steps, config.seed) == (7, 5)
    assert isinstance(config.train.learning_rate, float)
    assert config.adapter.transform == HUT(rank=16, spread="cyclic", scale=False)
    assert config.adapter.targets == ("mlp/up", "query")
    assert config.adapter.ranks == (("mlp", 4),)
    assert config.adapter.exclude == ("layer_0",)


def test_another_transformation_can_be_named():
    _, config = parse(QUICKSTART, "--config.adapter.name=full")
    assert config.adapter.transform == Full()
    assert config.train.learning_rate == Full.learning_rate  # and not what the file has for HUT
    _, config = parse(QUICKSTART, "--config.train.learning_rate=0.5", "--config.adapter.name=full")
    assert config.train.learning_rate == 0.5
    _, config = parse(QUICKSTART, "--config.adapter.name=hut")
    assert config.train.learning_rate == config_files.load_config_file("configs/quickstart.py").train.learning_rate > 0


def test_another_task_can_be_named():
    arguments = ["--config.data.block=32", "--config.data.text=a.txt"]
    _, config = parse("--config=configs/lm.py", "--config.task=mlm", *arguments)
    assert (config.task, config.data.block, config.data.holdout, config.decode) == ("mlm", 32, 0.002, None)
    _, config = parse("--config=configs/glue.py:mrpc", "--config.task", "rte")
    assert (config.task, config.data.max_length) == ("rte", 512)
    _, config = parse(QUICKSTART, "--config.task=lm", *arguments)
    assert (config.data.text, config.data.length_multiple, config.decode.beams) == ("a.txt", 16, 10)


def test_help_lists_the_fields_of_the_config_with_values_and_meanings(capsys):
    with pytest.raises(SystemExit) as ended:
        parse("--config=configs/glue.py:mrpc", "--config.train.steps=7", "--config.seed", "5", "--help")
    assert ended.value.code == 0
    output = " ".join(capsys.readouterr().out.split())
    for line in (
        "config.train: how the factors are trained",
        "--config.train.steps=7 steps of the run",
        "--config.seed=5 the seed of factors",
        "--config.data.max_length=512 the most tokens of an example",
        "--config.adapter.name=hut the transformation: hut, lora",
        "--config.adapter.rank=8 r; it must divide both sides",
        "('linear', 'cosine' or 'constant')",
    ):
        assert line in output
    assert "config.decode" not in output
    with pytest.raises(SystemExit):
        parse("--help")
    assert "--config.train.steps=100" in capsys.readouterr().out


@pytest.mark.parametrize("command", [evaluate, generate])
def test_a_misspelt_field_of_a_run_is_named_although_the_run_is_missing(command):
    with pytest.raises(UserError, match=r"config\.decode\.beems cannot be changed .*'decode\.beams'"):
        command.main(["--config.decode.beems=4"])


@pytest.mark.parametrize("command", [evaluate, generate, predict, merge])
def test_help_of_a_command_on_a_run_lists_the_fields_that_may_be_changed(command, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["--help"])
    assert ended.value.code == 0
    output = " ".join(capsys.readouterr().out.split())
    fields = "model, tokenizer, data.dir, data.cache, data.text, data.template, eval.batch_size, data.length_multiple,"
    assert f"changes {fields}" in output
    for name, info in fields_of(DecodeConfig).items():
        listed = f"--config.decode.{name}={info.default} {info.description}" in output
        assert listed == (command in (evaluate, generate))


def test_a_config_file_may_take_an_argument(tmp_path):
    file = tmp_path / "sized.py"
    file.write_text(
        "from hut_jax.config import default_config\n"
        "def get_config(size):\n    config = default_config()\n    config.model = size\n    return config\n"
    )
    assert parse(f"--config={file}:gpt2-medium")[1].model == "gpt2-medium"


def test_a_config_of_the_package_is_named_in_any_folder(tmp_path, monkeypatch):
    named = {name: str(path) for name, path in config_files.own_configs().items()}
    assert named["e2e"] == str(Path("configs/e2e.py").absolute())
    with_path = [parse(f"--config={spec}")[1] for spec in ("configs/e2e.py", "configs/glue.py:rte,large")]
    monkeypatch.chdir(tmp_path)
    assert [parse(f"--config={spec}")[1] for spec in ("e2e", "glue:rte,large")] == with_path
    assert with_path[0] != with_path[1]
    Path("e2e").write_text("what a path reaches")
    assert parse("--config=e2e")[1] == with_path[0]
    with pytest.raises(UserError, match=r"config file ./e2e: SyntaxError"):
        parse("--config=./e2e")


def test_the_configs_within_an_installed_package_come_first(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    shutil.copy("configs/lm.py", tmp_path / "configs/mine.py")
    monkeypatch.setattr(config_files, "FOLDERS", (tmp_path / "configs", *config_files.FOLDERS))
    assert config_files.own_configs() == {"mine": tmp_path / "configs/mine.py"}
    assert parse("--config=mine", "--config.data.text=a.txt")[1].task == "lm"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("e2", "the package has no config 'e2', and there is no such file; did you mean 'e2e'"),
        ("configs/e2e.py", "no config file 'configs/e2e.py'; the package's own config of this name is --config=e2e"),
        ("theirs", "the package has no config 'theirs', and there is no such file; did you mean 'theirs.py'"),
        ("nowhere/theirs.py", "no config file 'nowhere/theirs.py'; nowhere has none"),
    ],
)
def test_a_config_that_there_is_not_is_one_line(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("theirs.py").touch()
    with pytest.raises(UserError, match=message):
        parse(f"--config={name}")


def test_a_misspelt_field_is_named_although_a_required_option_is_missing():
    parser = cli.Parser("hut_jax.train", "doc")
    parser.add_argument("--workdir", required=True)
    with pytest.raises(UserError, match=r"unknown config field config.train.stps; did you mean 'train.steps'"):
        config_files.parse_with_config(parser, [QUICKSTART, "--config.train.stps=3"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: --config"),
        (["--config=configs/e2.py"], r"no config file 'configs/e2.py'; did you mean 'configs/e2e.py'"),
        ([QUICKSTART, "--config.train.stps=3"], r"unknown config field config.train.stps; did you mean 'train.steps'"),
        ([QUICKSTART, "--config.train.steps=x"], "config.train.steps=x"),
        ([QUICKSTART, "--config.train.steps=-1"], "config.train.steps is -1; it must be at least 0"),
        ([QUICKSTART, "--config.task=e2"], "config.task is 'e2'; did you mean 'e2e'"),
        (
            [QUICKSTART, "--config.data.text=a.txt"],
            "config.data.text is a field of the tasks 'lm', 'mlm'; config.task is 'e2e'",
        ),
        (
            ["--config=configs/glue.py:mrpc", "--config.decode.beams=4"],
            "config.decode.beams is a field of the tasks 'e2e', 'chat', 'lm'; config.task is 'mrpc'",
        ),
        ([QUICKSTART, "--config.adapter.rank=2.5"], "config.adapter.rank=2.5"),
        ([QUICKSTART, "--config.adapter.name=hot"], "unknown transformation 'hot'; did you mean 'hut'"),
        ([QUICKSTART, "--wrkdir=x"], "unknown argument --wrkdir; did you mean '--workdir'"),
        ([QUICKSTART, "stray"], "argument 'stray' belongs to no option"),
    ],
)
def test_a_mistake_is_one_line(argv, message):
    with pytest.raises(UserError, match=message) as caught:
        parse(*argv)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def get_config(: pass", "SyntaxError"),
        ("x = 1", "KeyError: get_config"),
        ("def get_config(): return {}", r"gives a dict, not a ConfigDict"),
        (
            "from hut_jax.config import default_config\ndef get_config():\n    default_config().train.stps = 3",
            'Did you mean "steps"',
        ),
    ],
)
def test_a_broken_config_file_is_one_line(tmp_path, body, message):
    file = tmp_path / "broken.py"
    file.write_text(body)
    with pytest.raises(UserError, match=message) as caught:
        parse(f"--config={file}")
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.full
def test_the_command_prints_the_line_and_exits_with_2():
    done = subprocess.run(
        [sys.executable, "-m", "hut_jax.train", QUICKSTART, "--config.train.stps=3", "--workdir=x"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown config field config.train.stps")
    assert done.stderr.count("\n") == 1


@pytest.mark.full
def test_a_terminal_without_the_letters_is_no_reason_to_end():
    done = subprocess.run(
        [sys.executable, "-m", "hut_jax.metrics.e2e", "--help"],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert r"Du\u0161ek" in done.stdout

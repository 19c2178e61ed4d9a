"""The door between what users write and what the code reads: defaults, ranges, choices, and config.json of old."""

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hut_jax import HUT, Full, LoRA
from hut_jax.config import (
    RunConfig,
    default_config,
    flatten_config,
    freeze,
    from_json,
    set_task,
    set_transform,
    thaw,
    to_json,
    with_fields,
)
from hut_jax.core.errors import UserError
from hut_jax.core.sections import fields_of, meaning
from hut_jax.models.attention import ATTENTION
from hut_jax.models.layers import REMAT
from hut_jax.runs import config_files
from hut_jax.tasks import TASKS
from hut_jax.training.config import TrainConfig
from hut_jax.transforms import TRANSFORMS

ROOT = Path(__file__).parent.parent
CONFIGS = {
    "copying": "configs/copying.py:records",
    "e2e": "configs/e2e.py",
    "e2e_books": "configs/e2e_books.py:gpt2",
    "glue": "configs/glue.py:cola",
    "glue_brief": None,  # what other configs share
    "chat": "configs/chat.py",
    "lm": "configs/lm.py",
    "minilm": "configs/minilm.py:cola",
    "pretrain": "configs/pretrain.py:roberta",
    "quickstart": "configs/quickstart.py",
    "roberta_books": "configs/roberta_books.py:cola",
}
QUICKSTART_0_1 = [
    "--config.data.length_multiple=128", "--config.data.slot_multiple=128", "--config.adapter.rank=8",
    "--config.adapter.spread=block", "--config.train.remat=dots", "--config.train.batch_size=16",
    "--config.train.learning_rate=0.1", "--config.train.beta2=0.999", "--config.eval.every=50",
    "--config.checkpoint.every=50",
]  # fmt: skip
"""What version 0.1.0 had where today's quickstart has another recipe."""


def config_of(task="e2e"):
    """A valid config of the task, all of whose fields have their defaults."""
    config = default_config(task)
    config.model = "gpt2"
    return config


@pytest.mark.parametrize("spec", [spec for spec in CONFIGS.values() if spec])
def test_every_config_file_is_valid(spec, monkeypatch, request):
    if "minilm" in spec:
        request.getfixturevalue("minilm")
    monkeypatch.chdir(ROOT)
    assert config_files.own_configs().keys() == CONFIGS.keys()
    freeze(config_files.load_config_file(spec))


# There and back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_a_config_is_the_same_after_json_and_thawed(task):
    config = config_of(task)
    config.adapter.ranks = (("mlp/", 4), ("attention/", 8))
    run = freeze(config)
    assert from_json(to_json(run)) == run == freeze(thaw(run))
    assert run.adapter.ranks == (("mlp/", 4), ("attention/", 8))


def values_of(name, info):
    """Values that a field may have."""
    low, high = {"beta1": (0, 0.99), "holdout": (0.01, 0.99)}.get(name, (1, 50))
    if get_args(info.annotation) and info.annotation not in (str, int, float, bool):
        return st.sampled_from(get_args(info.annotation)) if isinstance(info.default, str) else st.just(info.default)
    return {
        int: st.integers(1, 50),
        float: st.floats(low, high).map(lambda value: min(value, 0.5) if "smooth" in name or "beta" in name else value),
        str: st.text(),
        bool: st.booleans(),
    }[info.annotation]


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_any_valid_config_is_the_same_after_json(data):
    config = config_of(data.draw(st.sampled_from([*TASKS])))
    set_transform(config, data.draw(st.sampled_from([*TRANSFORMS])))
    for name, kind in {"train": TrainConfig, "data": TASKS[config.task].data_section}.items():
        for field, info in fields_of(kind).items():
            if field != "accumulate" and data.draw(st.booleans()):
                config[name][field] = data.draw(values_of(field, info))
    run = freeze(config)
    assert from_json(to_json(run)) == run == freeze(thaw(run))
    learned = run.train.learning_rate, run.train.also_train_learning_rate
    assert flatten_config(run) == flatten_config(config) | dict(
        zip(("train.learning_rate", "train.also_train_learning_rate"), learned, strict=True)
    )


def test_a_run_config_cannot_be_changed():
    run = freeze(config_of())
    with pytest.raises(AttributeError):
        run.train.steps = 3
    changed = with_fields(run, {"train.steps": 3, "adapter.rank": 4})
    assert (changed.train.steps, changed.adapter.transform) == (3, HUT(rank=4))
    assert run == freeze(config_of())
    with pytest.raises(UserError, match=r"config.train.batch_size is 0"):
        with_fields(run, {"train.batch_size": 0})


# The config.json of four runs as version 0.1 wrote it, when every task had the fields of all tasks.
VERSION_0_1 = json.loads((ROOT / "tests/goldens/version_0_1/configs.json").read_text())


@pytest.mark.parametrize("name", VERSION_0_1)
def test_a_config_of_version_0_1_loads_without_other_tasks_fields(name):
    old, run = flatten_config(VERSION_0_1[name]), from_json(json.dumps(VERSION_0_1[name]))
    kept = flatten_config(json.loads(to_json(run)))
    assert kept.pop("version") == 2
    assert kept.pop("eval.holdout") == 0.0  # fields of later versions
    assert kept.pop("eval.on_start") is True
    assert kept.pop("data.pack", 0) == 0
    assert kept.items() == {field: old[field] for field in kept}.items()
    assert {field.partition(".")[0] for field in old.keys() - kept} == {
        "e2e": {"data"},
        "lm": {"data"},
        "mlm": {"data", "decode"},
        "mrpc": {"data", "decode"},
    }[name]
    fields = {f"data.{field}" for field in fields_of(run.data)} - {"data.pack"}
    assert {field for field in kept if field.startswith("data.")} == fields


@pytest.mark.parametrize("name", VERSION_0_1)
def test_the_configs_still_say_what_they_said_in_version_0_1(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    spec, arguments = {
        "e2e": ("configs/quickstart.py", QUICKSTART_0_1),
        "mrpc": ("configs/glue.py:mrpc", ["--config.adapter.name=lora", "--config.mesh.data=2"]),
        "lm": ("configs/lm.py", ["--config.data.text=books.txt"]),
        "mlm": ("configs/lm.py", ["--config.task=mlm", "--config.data.text=books.txt"]),
    }[name]
    config = config_files.load_config_file(spec)
    config_files.override(config, arguments)
    assert freeze(config) == from_json(json.dumps(VERSION_0_1[name]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"version": 3}', "its version is 3, and this hut_jax reads 1 to 2"),
        ("{}", "config.task is missing"),
        ('{"task": ["e2e"]}', "config.task is"),
        ('{"task": "e2e", "data": 3}', "config.data"),
        ('{"task": "mrpc", "data": {}, "adapter": {"name": {}}}', "is missing"),
        ("[1]", "not a JSON object"),
        ("{", "Expecting"),
    ],
)
def test_what_is_no_config_is_one_line(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        from_json(text)
    assert "\n" not in str(caught.value)


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(deadline=None)
@given(st.sampled_from([*flatten_config(config_of())]), junk)
def test_a_field_of_any_wrong_value_is_a_users_mistake(field, value):
    fields = thaw(freeze(config_of())).to_dict()
    *sections, last = field.split(".")
    inner = fields[sections[0]] if sections else fields
    inner[last] = value
    message = ""
    try:
        assert isinstance(freeze(fields), RunConfig)
    except UserError as error:  # one of the two outcomes
        message = str(error)
    assert "\n" not in message


# Tasks and transformations ----------------------------------------------------------------------------------------


def test_another_transformation_brings_its_own_settings_and_no_others():
    config = default_config()
    config.adapter.targets = ("query$",)
    set_transform(config, "full")
    assert set(config.adapter) == {"name", "targets", "exclude", "ranks", "layout", "also_train", "start"}
    assert config.adapter.targets == ("query$",)
    set_transform(config, "hut", rank=4)
    assert (config.adapter.rank, config.adapter.spread) == (4, "block")
    config.train.learning_rate = 0.5
    set_transform(config, "hut", rank=8)
    assert config.train.learning_rate == 0.5  # the transformation is the same
    set_transform(config, "lora")
    assert config.train.learning_rate == 0
    with pytest.raises(UserError, match="full has no setting 'rank'"):
        set_transform(config, "full", rank=4)


def test_a_misspelt_transformation_is_answered_with_the_nearest():
    config = default_config()
    with pytest.raises(UserError, match="unknown transformation 'lorra'; did you mean 'lora'"):
        set_transform(config, "lorra")
    with pytest.raises(UserError, match="dora has no setting 'ranks'; did you mean 'rank'"):
        set_transform(config, "dora", ranks=2)


def test_another_task_brings_its_own_sections_and_keeps_those_that_are_the_same():
    config = default_config("lm")
    config.data.block = 32
    set_task(config, "mlm")
    assert (config.task, config.data.block, "decode" in config) == ("mlm", 32, False)
    set_task(config, "rte")
    assert set(config.data) == {"dir", "cache", "max_length", "max_examples", "length_multiple"}
    set_task(config, "e2e")
    assert (config.data.slot_multiple, config.decode.beams) == (8, 10)
    with pytest.raises(AttributeError, match="blokc"):
        config.data.blokc = 3
    with pytest.raises(UserError, match=r"config.task is 'e2'; did you mean 'e2e'"):
        set_task(config, "e2")
    with pytest.raises(UserError, match=r"config.task is 'e2'; did you mean 'e2e'"):
        default_config("e2")


def test_a_field_of_another_task_names_the_tasks_that_have_it():
    config = config_of()
    config.task = "mlm"
    message = (
        r"config.data.cache is a field of the tasks 'e2e', 'cola', .*; config.task is 'mlm'; .*set_task\(config, 'mlm'"
    )
    with pytest.raises(UserError, match=message):
        freeze(config)


def test_learning_rates_that_are_left_to_the_transformation_are_its_own():
    config = config_of()
    assert freeze(config).train.learning_rate == HUT.learning_rate
    set_transform(config, "lora")
    run = freeze(config)
    assert run.train.learning_rate == LoRA.learning_rate
    assert run.train.also_train_learning_rate == Full.learning_rate
    assert config.train.learning_rate == 0
    assert with_fields(run, {"train.learning_rate": 0.5}).train.learning_rate == 0.5
    assert replace(run, train=TrainConfig()) == run


# Values -----------------------------------------------------------------------------------------------------------


def test_a_misspelt_field_is_refused_where_it_is_set():
    with pytest.raises(AttributeError, match="stps"):
        default_config().train.stps = 3


SHARE = "at least 0 and below 1"

OUT_OF_RANGE = [
    ("seed", -1, "at least 0 and below 4,294,967,296"),
    ("seed", 2**32, "at least 0 and below 4,294,967,296"),
    ("data.max_length", 0, "at least 1"),
    ("data.length_multiple", 0, "at least 1"),
    ("data.slot_multiple", 0, "at least 1"),
    ("data.max_examples", -1, "0 or more"),
    ("data.max_bytes", -1, "0 or more"),
    ("data.block", 0, "at least 1"),
    ("data.holdout", 0.0, "above 0 and below 1"),
    ("data.holdout", 1.0, "above 0 and below 1"),
    ("train.epochs", 0.0, "above 0 and at most 1,000,000"),
    ("train.epochs", 1e7, "above 0 and at most 1,000,000"),
    ("train.steps", -1, "at least 0 and below 2,147,483,648"),
    ("train.steps", 2**31, "at least 0 and below 2,147,483,648"),
    ("train.batch_size", 0, "at least 1"),
    ("train.accumulate", 0, "at least 1"),
    ("train.learning_rate", -1.0, "0 or more"),
    ("train.also_train_learning_rate", -1.0, "0 or more"),
    ("train.warmup", -1.0, "0 or more"),
    ("train.weight_decay", -1.0, "0 or more"),
    ("train.clip", -1.0, "0 or more"),
    ("train.label_smoothing", 1.0, SHARE),
    ("train.label_smoothing", -0.1, SHARE),
    ("train.beta1", 1.0, SHARE),
    ("train.beta2", -0.1, SHARE),
    ("train.eps", 0.0, "above 0"),
    ("log.every", 0, "at least 1"),
    ("eval.every", 0, "at least 1"),
    ("eval.batch_size", 0, "at least 1"),
    ("eval.max_examples", -1, "0 or more"),
    ("decode.max_new_tokens", 0, "at least 1"),
    ("decode.min_new_tokens", -1, "0 or more"),
    ("decode.no_repeat_ngram", -1, "0 or more"),
    ("decode.beams", 0, "at least 1"),
    ("decode.temperature", 0.0, "at least 1e-06"),
    ("decode.top_k", -1, "0 or more"),
    ("decode.top_p", 0.0, "above 0 and at most 1"),
    ("decode.top_p", 1.1, "above 0 and at most 1"),
    ("decode.batch_size", 0, "at least 1"),
    ("checkpoint.every", 0, "at least 1"),
    ("checkpoint.keep", 0, "at least 1"),
]


def refused(field, value):
    """What is said of a field with this value."""
    tasks = [task for task in ("e2e", "lm", "mrpc") if field in flatten_config(default_config(task))]
    said = set()
    for task in tasks:
        config = config_of(task).to_dict()
        *sections, last = field.split(".")
        inner = config[sections[0]] if sections else config
        inner[last] = value
        with pytest.raises(UserError) as caught:
            freeze(config)
        said.add(str(caught.value))
    (message,) = said
    return message


@pytest.mark.parametrize(("field", "value", "wanted"), OUT_OF_RANGE)
def test_a_value_out_of_its_range_is_refused(field, value, wanted):
    assert refused(field, value) == f"config.{field} is {value!r}; it must be {wanted}"


@pytest.mark.parametrize(
    ("field", "choices"),
    [
        ("init", ("pretrained", "random")),
        ("dtype", ("float32", "bfloat16")),
        ("train.remat", tuple(REMAT)),
        ("train.attention", ATTENTION),
        ("train.decay", ("linear", "cosine", "constant")),
        ("decode.method", ("beam", "greedy", "sample")),
        ("decode.early_stopping", ("false", "true", "never")),
    ],
)
def test_a_choice_is_one_of_its_values(field, choices):
    for choice in choices:
        freeze(thaw(with_fields(freeze(config_of()), {field: choice})))
    assert refused(field, choices[0] + "l").startswith(f"config.{field} is '{choices[0]}l'; did you mean ")
    assert repr(choices[0]) in refused(field, choices[0] + "l")
    assert refused(field, "zzzz") == f"config.{field} is 'zzzz'; valid: {', '.join(map(repr, sorted(choices)))}"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("train.decay", "liner", "config.train.decay is 'liner'; did you mean 'linear', 'cosine'?"),
        ("train.learning_rate", float("inf"), "config.train.learning_rate is inf; it must be finite"),
        ("decode.length_penalty", float("nan"), "config.decode.length_penalty is nan; it must be finite"),
        ("train.steps", 2.5, "config.train.steps is 2.5; it must be a whole number"),
        ("train.steps", True, "config.train.steps is True; it must be a whole number"),
        ("train.steps", "3", "config.train.steps is '3'; it must be a whole number"),
        ("train.warmup", "0.1", "config.train.warmup is '0.1'; it must be a number"),
        ("train.dropout", 1, "config.train.dropout is 1; it must be True or False"),
        ("tokenizer", None, "config.tokenizer is None; it must be a text"),
        ("adapter.targets", "query", "config.adapter.targets is 'query'; it must be a tuple of texts"),
        (
            "adapter.ranks",
            (3,),
            "config.adapter.ranks is (3,); it must be pairs of a text and a whole number, such as (('mlp/', 4),)",
        ),
        (
            "adapter.layout",
            ("lio",),
            "config.adapter.layout is ('lio',); it must be pairs of a text and a text, such as (('^layers/', 'lio'),)",
        ),
        ("adapter.rank", 0, "HUT: rank must be a whole number of at least 1, not 0"),
        ("adapter.scale", 1, "hut: scale must be a bool such as True, not 1"),
        ("adapter.name", "hot", "unknown transformation 'hot'; did you mean 'hut'?"),
        ("train.accumulate", 3, "config.train.accumulate is 3; it must divide config.train.batch_size, 8"),
        ("model", "", "config.model is empty; give a hub name such as gpt2-medium, or a folder"),
        ("task", "e2", "config.task is 'e2'; did you mean 'e2e'?"),
        (
            "train.stps",
            3,
            "unknown config field config.train.stps; did you mean 'train.steps', 'train.eps', 'train.epochs'?",
        ),
    ],
)
def test_what_is_wrong_with_a_value_is_one_line(field, value, message):
    config = config_of().to_dict()
    *sections, last = field.split(".")
    (config[sections[0]] if sections else config)[last] = value
    with pytest.raises(UserError) as caught:
        freeze(config)
    assert str(caught.value) == message


NO_REGEX = "'(' is not a regular expression: missing ), unterminated subpattern at position 0"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"mesh.fsdp": 0},
            "config.mesh.fsdp is 0; it must be 1 or more, or -1 for what the others leave",
        ),
        ({"mesh.data": -5}, "config.mesh.data is -5; it must be 1 or more, or -1 for what the others leave"),
        (
            {"mesh.tensor": -1},
            "config.mesh.data and config.mesh.tensor are both -1; only one can take what is left",
        ),
        (
            {"decode.max_new_tokens": 8, "decode.min_new_tokens": 9},
            "config.decode: min_new_tokens must be at least 0 and at most max_new_tokens, 8, not 9",
        ),
        (
            {"decode.length_penalty": 19.0},
            "config.decode: length_penalty 19.0: 64 tokens to that power are out of fp32's range; "
            "give a length_penalty between -18.0 and 18.0",
        ),
        ({"adapter.targets": ("(",)}, NO_REGEX),
        ({"adapter.exclude": ("(",)}, NO_REGEX),
        ({"adapter.also_train": ("(",)}, NO_REGEX),
        ({"adapter.ranks": (("(", 1),)}, NO_REGEX),
        ({"adapter.ranks": (("a", 0),)}, "ranks= at 'a': rank must be a whole number of at least 1, not 0"),
        (
            {"adapter.layout": (("a", "zz"),)},
            "layout= at 'a': 'zz' is no layout: it has one letter for each axis, l for stacked layers, "
            "i for inputs, o for outputs, in the order of the axes",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_read(changes, message):
    with pytest.raises(UserError) as caught:
        with_fields(freeze(config_of()), changes)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "changes",
    [
        {"mesh.data": 1, "mesh.tensor": -1},
        {"decode.max_new_tokens": 8, "decode.min_new_tokens": 8},
        {"decode.length_penalty": -18.0},
        {"decode.length_penalty": 19.0, "decode.method": "greedy"},
        {"adapter.layout": (("a", "llioo"),), "adapter.ranks": (("a", 1),)},
        # the lowest values of the numbers that may be 0, of those that count, and of those above 0
        {
            "seed": 0,
            "data.max_examples": 0,
            "train.steps": 0,
            "train.warmup": 0.0,
            "train.weight_decay": 0.0,
            "train.clip": 0.0,
            "train.label_smoothing": 0.0,
            "train.beta1": 0.0,
            "train.beta2": 0.0,
            "eval.max_examples": 0,
            "eval.holdout": 0.0,
            "decode.min_new_tokens": 0,
            "decode.no_repeat_ngram": 0,
            "decode.top_k": 0,
        },
        {
            "data.max_length": 1,
            "data.length_multiple": 1,
            "data.slot_multiple": 1,
            "train.batch_size": 1,
            "train.accumulate": 1,
            "log.every": 1,
            "eval.every": 1,
            "eval.batch_size": 1,
            "decode.max_new_tokens": 1,
            "decode.beams": 1,
            "decode.batch_size": 1,
            "checkpoint.every": 1,
            "checkpoint.keep": 1,
        },
        {"train.epochs": 1e-9, "train.eps": 1e-9, "decode.top_p": 1e-9, "decode.temperature": 1e-6},
        {"train.epochs": 1e6, "train.steps": 2**31 - 1, "seed": 2**32 - 1, "decode.top_p": 1.0},
    ],
)
def test_what_just_fits_is_taken(changes):
    run = with_fields(freeze(config_of()), changes)
    assert {field: flatten_config(run)[field] for field in changes} == changes


def test_what_a_run_does_where_its_config_says_nothing():
    """Another default is another result of the same command, and goes into the changelog."""
    assert flatten_config(config_of()) == {
        "task": "e2e",
        "model": "gpt2",
        "adapter.also_train": (),
        "adapter.exclude": (),
        "adapter.layout": (),
        "adapter.name": "hut",
        "adapter.rank": 8,
        "adapter.ranks": (),
        "adapter.scale": True,
        "adapter.shift": True,
        "adapter.spread": "block",
        "adapter.start": "",
        "adapter.targets": (),
        "checkpoint.every": 1000,
        "checkpoint.keep": 2,
        "data.cache": "",
        "data.dir": "",
        "data.length_multiple": 16,
        "data.max_examples": 0,
        "data.max_length": 512,
        "data.pack": 0,
        "data.slot_multiple": 8,
        "decode.batch_size": 16,
        "decode.beams": 10,
        "decode.early_stopping": "false",
        "decode.length_penalty": 0.9,
        "decode.max_new_tokens": 64,
        "decode.method": "beam",
        "decode.min_new_tokens": 0,
        "decode.no_repeat_ngram": 4,
        "decode.temperature": 1.0,
        "decode.top_k": 0,
        "decode.top_p": 1.0,
        "dtype": "float32",
        "eval.holdout": 0.0,
        "eval.on_start": True,
        "eval.batch_size": 32,
        "eval.every": 1000,
        "eval.max_examples": 0,
        "init": "pretrained",
        "log.every": 50,
        "mesh.data": -1,
        "mesh.fsdp": 1,
        "mesh.tensor": 1,
        "seed": 0,
        "tokenizer": "",
        "train.accumulate": 1,
        "train.also_train_learning_rate": 0.0,
        "train.attention": "xla",
        "train.batch_size": 8,
        "train.beta1": 0.9,
        "train.beta2": 0.999,
        "train.clip": 1.0,
        "train.decay": "linear",
        "train.dropout": True,
        "train.epochs": 5.0,
        "train.eps": 1e-06,
        "train.label_smoothing": 0.0,
        "train.learning_rate": 0.0,
        "train.remat": "dots",
        "train.scan_layers": False,
        "train.steps": 0,
        "train.warmup": 500.0,
        "train.weight_decay": 0.01,
    }


def test_a_missing_field_is_named_with_its_default():
    config = config_of().to_dict()
    del config["decode"]["beams"]
    with pytest.raises(UserError, match=r"config.decode.beams is missing; its default is 10"):
        freeze(config)


def test_an_int_is_a_float_where_a_float_is_wanted():
    config = config_of().to_dict()
    config["train"]["warmup"] = 100
    assert isinstance(freeze(config).train.warmup, float)


@pytest.mark.parametrize("task", TASKS)
def test_every_field_is_documented(task):
    run = freeze(config_of(task))
    for section in (run, run.data, run.train, run.eval, run.decode or run.log):
        for name, info in fields_of(type(section)).items():
            assert info.description or name in ("adapter", "train", "log", "eval", "checkpoint", "mesh"), name
    assert meaning(fields_of(TrainConfig)["batch_size"]) == "examples in a step (at least 1)"
    assert meaning(fields_of(TrainConfig)["decay"]).endswith("('linear', 'cosine' or 'constant')")

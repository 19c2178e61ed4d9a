"""generation_config.json beside a model: the end tokens that it adds, and its copy."""

import json
from types import SimpleNamespace

import pytest

from hut_jax.core.errors import UserError
from hut_jax.models.hub.generation_config import copy_generation_config, end_tokens


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        (7, None, {7}),
        ((7, 8), {}, {7, 8}),
        (None, {"eos_token_id": None, "temperature": 0.6}, set()),
        (7, {"eos_token_id": 9}, {7, 9}),
        ((7, 8), {"eos_token_id": [7, 8, 9]}, {7, 8, 9}),
    ],
)
def test_both_files_may_name_one_end_token_or_several(tmp_path, config, generation, expected):
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert end_tokens(tmp_path, SimpleNamespace(eos_token_id=config)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"eos_token_id": "</s>"}', r"generation_config.json: 'eos_token_id' must be a token id, a list of token ids"),
        ("[1]", r"generation_config.json holds no JSON object, but a list"),
        ("{", r"generation_config.json is not JSON"),
    ],
)
def test_a_malformed_file_is_one_line(tmp_path, text, message):
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        end_tokens(tmp_path, SimpleNamespace(eos_token_id=7))


def test_it_is_copied_and_an_older_one_does_not_stay(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "merged").mkdir()
    (tmp_path / "base/generation_config.json").write_text('{"eos_token_id": [7, 8]}\n')
    copy_generation_config(tmp_path / "base", tmp_path / "merged")
    assert (tmp_path / "merged/generation_config.json").read_text() == '{"eos_token_id": [7, 8]}\n'
    (tmp_path / "base/generation_config.json").unlink()
    copy_generation_config(tmp_path / "base", tmp_path / "merged")
    assert not (tmp_path / "merged/generation_config.json").exists()

import os

import pytest

from hut_jax.core.files import lines_of, write_text


def test_a_link_stays_one_and_its_target_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there/target.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "there/target.txt")
    write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "there/target.txt").read_text() == "new"
    assert os.listdir(tmp_path / "there") == ["target.txt"]


def test_a_name_may_be_as_long_as_the_system_allows(tmp_path):
    write_text(tmp_path / ("é" * 127), "new")
    assert os.listdir(tmp_path) == ["é" * 127]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("a", ["a"]),
        ("a\r\nb\rc\n", ["a", "b", "c"]),
        ("\n\n", ["", ""]),
        ("a\u2028b\x85\x0c\n", ["a\u2028b\x85\x0c"]),
    ],
)
def test_lines_end_with_line_feeds_and_carriage_returns(text, lines):
    assert lines_of(text) == lines

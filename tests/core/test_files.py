import os

import pytest

from hut_jax.core.errors import UserError
from hut_jax.core.files import lines_of, read_json, read_text, replacing_all, write_text


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


def test_files_are_replaced_together_in_the_order_given(tmp_path, monkeypatch):
    replaced = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: (replaced.append(target.name), replace(source, target)))
    with replacing_all(tmp_path / "new/folder", ["b", "a"]) as (b, a):
        a.write_text("1")
        b.write_text("2")
        assert not replaced
    assert replaced == ["b", "a"]
    assert sorted(os.listdir(tmp_path / "new/folder")) == ["a", "b"]
    assert (tmp_path / "new/folder/b").read_text() == "2"


@pytest.mark.parametrize("there", [False, True])
def test_a_failure_leaves_the_folder_as_it_was(tmp_path, there):
    folder = tmp_path / "folder"
    if there:
        folder.mkdir()
        (folder / "a").write_text("old")

    def stopped():
        with replacing_all(folder, ["a", "b"]) as (a, _):
            a.write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert folder.exists() == there
    assert not there or (os.listdir(folder) == ["a"] and (folder / "a").read_text() == "old")


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot make the folder .*file/folder: "):
        replacing_all(tmp_path / "file/folder", ["a"]).__enter__()


def test_a_text_that_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbfa\r\nb")
    assert read_text(tmp_path / "bom.txt") == "\ufeffa\r\nb"
    assert read_text(tmp_path / "bom.txt", "utf-8-sig") == "a\r\nb"
    (tmp_path / "bad.txt").write_bytes(b"fine\nbad \xff")
    with pytest.raises(UserError, match=r"bad\.txt, line 2: not UTF-8 \(invalid start byte\)"):
        read_text(tmp_path / "bad.txt")
    with pytest.raises(UserError, match=r"cannot read .*none\.txt: No such file"):
        read_text(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "x.json is not JSON"),
        ("[" * 100_000, "x.json is not JSON"),
        ("[1]", "x.json holds no JSON object, but a list"),
        (None, "no x.json in"),
    ],
)
def test_a_file_without_a_json_object_is_one_line(tmp_path, text, message):
    if text is not None:
        (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_json(tmp_path / "x.json")

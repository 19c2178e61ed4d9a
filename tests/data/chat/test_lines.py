import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hut_jax.core.errors import UserError
from hut_jax.data.chat import lines as module
from hut_jax.data.chat.lines import Lines


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["", " ", "\t", "a", "bc d", "ü", "x" * 9]), max_size=12), st.booleans(), st.integers(1, 9)
)
def test_each_line_has_its_number_whatever_the_blocks(tmp_path_factory, texts, ended, block):
    path = tmp_path_factory.mktemp("lines") / "file"
    path.write_text("\n".join(texts) + ("\n" if ended else ""), encoding="utf-8", newline="")
    module_block, module._BLOCK = module._BLOCK, block
    try:
        lines = Lines(path)
    finally:
        module._BLOCK = module_block
    expected = [(number, text) for number, text in enumerate(texts, start=1) if text.strip()]
    assert [lines[i] for i in range(len(lines))] == expected


def test_windows_lines_and_a_byte_order_mark_are_as_good(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"\xef\xbb\xbf{}\r\n\r\n[]\r\n")
    lines = Lines(path)
    assert [(number, text.strip()) for number, text in (lines[0], lines[1])] == [(1, "{}"), (3, "[]")]


def test_a_line_that_is_no_utf_8_is_named_when_it_is_read(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"{}\n\n\xff\n")
    lines = Lines(path)
    assert lines[0] == (1, "{}")
    with pytest.raises(UserError, match=r"file, line 3: not UTF-8 .*; it should be plain text"):
        lines[1]


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*missing: No such file"):
        Lines(tmp_path / "missing")


def test_the_index_is_on_disk_and_its_files_are_closed_with_it(tmp_path):
    (tmp_path / "file").write_text("a\nb\n")
    before = len(os.listdir("/proc/self/fd"))
    lines = Lines(tmp_path / "file")
    assert os.fstat(lines._index).st_size == 2 * 3 * 8
    assert not any(isinstance(value, np.ndarray) for value in vars(lines).values())
    assert len(os.listdir("/proc/self/fd")) == before + 2
    with pytest.raises(IndexError):
        lines[2]
    del lines
    assert len(os.listdir("/proc/self/fd")) == before

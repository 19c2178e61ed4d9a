"""The header of GGUF files, against the reader of the package gguf, and what is refused."""

import struct

import numpy as np
import pytest

from hut_jax import UserError
from hut_jax.models.gguf.header import read_header
from tests.gguf_files import import_gguf, write_file

FIELDS = {
    ".a.flag": True,
    ".a.whole": 7,
    ".a.number": 0.1,
    ".a.text": "Straße ☃",
    ".a.texts": ["a", "", "ß"],
    ".a.wholes": [1, -2, 300000],
    ".a.numbers": [0.5, 1.5],
    ".a.flags": [True, False],
}
RANDOM = np.random.default_rng(0)
TENSORS = {"one": RANDOM.normal(size=(7,)), "two": RANDOM.normal(size=(3, 64)), "three": RANDOM.normal(size=(2, 3, 32))}
KINDS = {"two": "F16", "three": "Q8_0"}


def test_metadata_and_tensors_are_those_that_the_package_reads(tmp_path):
    gguf = import_gguf()
    path = write_file(tmp_path / "file.gguf", "llama", {**FIELDS, ".general.alignment": 64}, TENSORS, KINDS)
    header, theirs = read_header(path), gguf.GGUFReader(path)
    expected = {name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert header.fields.keys() == expected.keys()
    for name, value in expected.items():
        ours = header.fields[name]
        assert (ours.tolist() if isinstance(ours, np.ndarray) else ours) == value, name
    assert [*header.tensors] == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        stored = header.tensors[tensor.name]
        assert (stored.kind, stored.start, stored.size) == (tensor.tensor_type, tensor.data_offset, tensor.n_bytes)
        assert [*stored.shape[::-1]] == tensor.shape.tolist()


def text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()


def array(of, count, body=b""):
    return struct.pack("<IIQ", 9, of, count) + body


def entry(name="t", shape=(4,), kind=0, offset=0):
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


ENTRY = entry()


def file(pairs=(), tensors=(ENTRY,), body=bytes(256), magic=b"GGUF", version=3, counts=None):
    """A file of one tensor, or with some of its parts replaced."""
    head = magic + struct.pack("<IQQ", version, *(counts or (len(tensors), len(pairs))))
    head += b"".join(text(name) + value for name, value in pairs) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + body


def read(tmp_path, data):
    path = tmp_path / "file.gguf"
    path.write_bytes(data)
    return read_header(path)


def test_the_sample_is_whole(tmp_path):
    header = read(tmp_path, file([("a", struct.pack("<II", 4, 7))]))
    assert (header.fields, header.tensors["t"].shape) == ({"a": 7}, (4,))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes, not a whole GGUF file"),
        (b"GGUF", "ends too early"),
        (b"version https://git-lfs.github.com/spec/v1\n", "does not begin with GGUF"),
        (file(body=b""), "ends too early"),
        (file(version=1), "version 1 of GGUF; versions 2 and 3"),
        (file(version=3 << 24), "a big-endian GGUF file"),
        (file(counts=(1 << 60, 0)), f"{1 << 60} tensors"),
        (file(counts=(0, 1 << 60), tensors=()), "ends too early|twice"),
        (file([("a", array(4, 1 << 60))]), "ends too early"),
        (file([("a", array(8, 1 << 60))]), "ends too early"),
        (file([("a", array(9, 1))]), "an array of type 9"),
        (file([("a", struct.pack("<I", 13))]), "a value of type 13"),
        (file([("a", struct.pack("<IQ", 8, 1 << 60))]), "ends too early"),
        (file([("a", struct.pack("<IQ", 8, 1) + b"\xff")]), "utf-8"),
        (file([("a", struct.pack("<II", 4, 7))] * 2), "'a' is there twice"),
        (file([("general.alignment", struct.pack("<II", 4, 0))]), "general.alignment is 0"),
        (file(tensors=(entry(), entry())), "the tensor 't' is there twice"),
        (file(tensors=(entry(shape=()),)), "'t' has 0 axes"),
        (file(tensors=(entry(shape=(4, 0)),)), "'t' is empty"),
        (file(tensors=(entry(shape=(1,) * 5),)), "'t' has 5 axes"),
        (file(tensors=(entry(shape=(1 << 40,)),)), "ends too early"),
        (file(tensors=(entry(offset=1 << 40),)), "ends too early"),
        (file(tensors=tuple(entry(str(i), (64,)) for i in range(9))), "ends too early"),  # the same bytes, nine times
    ],
)
def test_what_is_no_whole_file_is_refused_in_one_line(tmp_path, data, message):
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, data)
    assert "file.gguf" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_types_that_cannot_be_unpacked_are_named(tmp_path):
    import_gguf()
    with pytest.raises(UserError, match="'t' is of the type I32, which is not read"):
        read(tmp_path, file(tensors=(entry(kind=26),)))
    with pytest.raises(UserError, match="'t' is of the type number 99"):
        read(tmp_path, file(tensors=(entry(kind=99),)))
    with pytest.raises(UserError, match="'t' has rows of 4, which blocks of 32 do not fill"):
        read(tmp_path, file(tensors=(entry(kind=8),)))


def test_without_the_package_floats_are_read_and_others_say_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    assert read(tmp_path, file()).tensors["t"].kind == 0
    with pytest.raises(UserError, match=r"file.gguf: .*pip install 'hut_jax\[gguf\]'"):
        read(tmp_path, file(tensors=(entry(shape=(32,), kind=8),)))

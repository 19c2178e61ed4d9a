"""The arrays that are found in a file of `flax.serialization`, and what is refused, against Flax's own reader."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization
from flax.traverse_util import flatten_dict

from hut_jax.models.hub.msgpack_arrays import DTYPES, find_arrays

RANDOM = np.random.default_rng(0)
TREE = {
    **{f"layer_{i}": {"x" * (1 << i): RANDOM.normal(size=(i, 3)).astype(np.float32)} for i in range(1, 8)},
    **{name: RANDOM.normal(0, 9, (2, 5)).astype(dtype) for name, dtype in DTYPES.items()},
    "scalar": np.array(3.0, np.float32),
    "empty": np.zeros((0, 4), np.float32),
    "large": RANDOM.normal(size=(80, 300)),
    "many": {str(i): np.full(i, i, np.float32) for i in range(300)},
}


def ours(data):
    return {path: stored.read(data) for path, stored in find_arrays(data).items()}


def test_the_arrays_are_those_that_flax_reads():
    data = serialization.msgpack_serialize(TREE)
    expected, found = flatten_dict(serialization.msgpack_restore(data)), ours(data)
    assert found.keys() == expected.keys()
    for path, array in expected.items():
        assert (found[path].dtype, found[path].shape) == (array.dtype, array.shape), path
        np.testing.assert_array_equal(found[path], array)
        assert found[path].flags.aligned


def test_an_array_in_chunks_is_one(monkeypatch):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 100)
    data = serialization.msgpack_serialize(TREE)
    assert b"chunked_array" in data
    found = ours(data)
    assert len(found) == len(flatten_dict(TREE))
    np.testing.assert_array_equal(found["large",], TREE["large"])
    assert len(find_arrays(data)["large",].spans) > 1


def array(shape=b"\x91\x02", dtype=b"\xa7float32", length=b"\xc4\x08", body=bytes(8), code=b"\x01"):
    """An array of two numbers, or with some of its bytes replaced."""
    inner = b"\x93" + shape + dtype + length + body
    return b"\xc7" + bytes([len(inner)]) + code + inner


def chunked(**given):
    tree = {"__msgpack_chunked_array__": True, "shape": {"0": 2}, "chunks": {"0": np.zeros(2)}, **given}
    return serialization.msgpack.packb({"a": tree}, default=serialization._msgpack_ext_pack)


def test_the_samples_are_whole():
    assert ours(b"\x81\xa1a" + array())["a",].tolist() == [0, 0]
    assert ours(chunked())["a",].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ends too early"),
        (b"\x81\xa1a" + array()[:-1], "ends too early"),
        (b"\x81\xa1a" + array() + b"\x00", "goes on after its end"),
        (array(), "holds no tree"),
        (b"\x03", "holds no tree"),
        (b"version https://git-lfs.github.com/spec/v1\n", "holds no tree"),
        (b"\x82\xa1a" + array() + b"\xa1a" + array(), "'a' is there twice"),
        (b"\x81\xa1a\x07", "a leaf of its tree is not an array"),
        (b"\x81\x01" + array(), "of kind int before byte 2, not str"),
        (b"\x81\xa1a\x91\x01", "of kind array"),
        (b"\x81\xa1a\xa3abc", "of kind str"),
        (b"\x81\xa1a\xc0", "begins neither a map nor an array"),
        (b"\x81\xa1\xff" + array(), "utf-8"),
        (b"\xdf\xff\xff\xff\xff", "ends too early"),
        (b"\x81\xdb\xff\xff\xff\xff", "a name of 4294967295 bytes"),
        (b"\x81\xa1a" * 100 + array(), "deeper or larger"),
        (b"\xdf\x00\x02\x00\x00" + b"".join(b"\xa6%06d\x01" % i for i in range(1 << 17)), "deeper or larger"),
        (b"\x81\xa1a" + array(shape=b"\x91\x03"), r"8 bytes, not float32 \[3\]"),
        (b"\x81\xa1a" + array(shape=b"\x92\xcf" + b"\xff" * 8 + b"\x00"), r"8 bytes, not float32"),
        (b"\x81\xa1a" + array(shape=b"\x90"), r"8 bytes, not float32 \[\]"),
        (b"\x81\xa1a" + array(shape=b"\x91\xff"), "neither a map nor an array"),
        (b"\x81\xa1a" + array(length=b"\xc6\xff\xff\xff\xff"), "ends too early"),
        (b"\x81\xa1a" + array(length=b"\xc4\x04"), "does not end at byte"),
        (b"\x81\xa1a" + array(code=b"\x02"), "extension type before byte .* that is not an array"),
        (b"\x81\xa1a" + array(code=b"\x03"), "extension type before byte .* that is not an array"),
        (chunked(shape={"0": 3}), r"16 bytes, not float64 \[3\]"),
        (chunked(shape={"1": 2}), "not numbered"),
        (chunked(shape=7), "without its shape"),
        (chunked(chunks={}), "chunks of 0 dtypes"),
        (chunked(chunks={"0": np.zeros(1), "1": np.zeros(2, np.float32)}), "chunks of 2 dtypes"),
        (chunked(chunks={"0": 3}), "not numbered"),
    ],
    ids=lambda each: each if isinstance(each, str) else "data",
)
def test_what_flax_does_not_write_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        find_arrays(data)


def test_any_damage_is_an_error_of_one_kind_or_another_whole_file():
    """Bytes flipped, cut and put in: never another exception, and never more data than the file has."""
    whole = serialization.msgpack_serialize(
        {"a": {"b": np.arange(3.0), "c": jnp.ones((2, 2), jnp.bfloat16)}, "d": np.ones(5)}
    )
    refused = 0
    for seed in range(600):
        random = np.random.default_rng(seed)
        data, at = bytearray(whole), int(random.integers(len(whole)))
        data[at : at + int(random.integers(3))] = random.bytes(int(random.integers(3)))
        try:
            for stored in find_arrays(bytes(data)).values():
                assert sum(size for _, size in stored.spans) <= len(data)
        except ValueError:
            refused += 1
    assert 100 < refused < 600

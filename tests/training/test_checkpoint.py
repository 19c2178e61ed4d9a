import gc
import re
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hut_jax import HUT, Adapter
from hut_jax.core.errors import UserError
from hut_jax.training import checkpoint
from hut_jax.training.checkpoint import Checkpoints, _state_digest
from hut_jax.training.config import TrainConfig
from hut_jax.training.optimizer import make_optimizer
from hut_jax.training.steps import Steps


@pytest.fixture
def checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    yield checkpoints
    checkpoints.close()


def test_what_is_restored_is_what_was_there_when_saving_began(checkpoints):
    """Saving goes on in the background while the next steps write over the donated state."""
    step = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 2 + 1, tree), donate_argnums=0)
    state = {"big": jnp.ones((8, 1024, 256)), "count": jnp.zeros((), jnp.int32)}
    expected = jax.tree.map(np.array, state)
    checkpoints.save(0, state, {"data": {"next_index": 3}})
    for _ in range(10):
        state = step(state)
    checkpoints.wait()
    step, restored, progress = checkpoints.restore_newest(state)
    assert step == 0
    assert progress == {"data": {"next_index": 3}}
    for name in expected:
        np.testing.assert_array_equal(restored[name], expected[name])
        assert restored[name].dtype == expected[name].dtype


def test_the_newest_few_are_kept(checkpoints, tmp_path):
    for step in (1, 2, 3):
        checkpoints.save(step, {"x": jnp.full(3, step)}, {})
    checkpoints.save(3, {"x": jnp.zeros(3)}, {})  # that one is there already
    checkpoints.wait()
    assert checkpoints.latest == 3
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step_2", "step_3"]
    step, state, _ = checkpoints.restore_newest({"x": jnp.zeros(3, int)})
    assert step == 3
    np.testing.assert_array_equal(state["x"], [3, 3, 3])


def test_none_at_all_is_no_error(checkpoints):
    assert checkpoints.restore_newest({"x": jnp.zeros(3)}) is None


def flip(path, at):
    """Another value in one bit, `at` of the file's length into it."""
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 0x10
    path.write_bytes(content)


def files_of(step):
    return sorted(path for path in step.rglob("*") if path.is_file() and path.stat().st_size)


FAULTS = {
    "each file cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "each file emptied": lambda path: path.write_bytes(b""),
    "each file gone": lambda path: path.unlink(),
    "each file with a bit flipped early": lambda path: flip(path, 0.2),
    "each file with a bit flipped in the middle": lambda path: flip(path, 0.5),
    "each file with a bit flipped late": lambda path: flip(path, 0.8),
    "each file of other bytes": lambda path: path.write_bytes(b"\x5a" * path.stat().st_size),
}


# Noise, which no compression can find fault with.
NOISE = np.random.default_rng(0).standard_normal(3000).astype(np.float32)
STATES = {step: {"x": jnp.asarray(NOISE * np.float32(step)), "n": jnp.asarray(np.int32(step))} for step in (1, 2)}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A folder with two checkpoints of `STATES`, to be read only."""
    folder = tmp_path_factory.mktemp("pristine")
    made = Checkpoints(folder / "checkpoints", keep=2)
    for step, state in STATES.items():
        made.save(step, state, {"at": step, "loss": 0.1 * step})
    made.wait()
    made.close()
    return folder


def mostly_full(faults, quick):
    return [
        pytest.param(fault, id=name, marks=[] if name in quick else pytest.mark.full) for name, fault in faults.items()
    ]


# Orbax leaves the reads that were under way when one failed to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("fault", mostly_full(FAULTS, ["each file with a bit flipped in the middle"]))
def test_no_damage_to_a_file_is_silently_wrong(fault, pristine, tmp_path):
    """Whatever becomes of a file of the newest checkpoint, what comes back is what was saved then or before."""
    states = STATES
    passed_over = 0
    for number, path in enumerate(files_of(pristine / "checkpoints/step_2")):
        folder = tmp_path / str(number)
        shutil.copytree(pristine, folder)
        fault(folder / path.relative_to(pristine))
        lines = []
        opened = Checkpoints(folder / "checkpoints", keep=2, report=lines.append)
        step, state, progress = opened.restore_newest(states[1])
        np.testing.assert_array_equal(state["x"], states[step]["x"])
        assert progress == {"at": step, "loss": 0.1 * step}
        if step == 1:
            passed_over += 1
            assert re.search(r"checkpoint of step 2 is damaged \(.+\) and was moved to .*step_2; .*step 1$", lines[0])
            assert (folder / "damaged/step_2").is_dir()
            opened.save(2, states[2], progress)  # the place is free again
            opened.wait()
            assert opened.restore_newest(states[1])[0] == 2
        opened.close()
    assert passed_over >= 3
    gc.collect()


def put_in_place(path, other):
    """The other folder's contents in place of this one's."""
    shutil.rmtree(path)
    shutil.copytree(other, path)


def emptied(path):
    shutil.rmtree(path)
    path.mkdir()


FOLDER_FAULTS = {
    "no state": lambda step: shutil.rmtree(step / "state"),
    "no progress": lambda step: shutil.rmtree(step / "progress"),
    "an empty state": lambda step: emptied(step / "state"),
    "an empty progress": lambda step: emptied(step / "progress"),
    "nothing": emptied,
    "a file": lambda step: (shutil.rmtree(step), step.write_text("step_2")),
    "a file as the state": lambda step: (shutil.rmtree(step / "state"), (step / "state").write_text("state")),
    "a link to nowhere": lambda step: (shutil.rmtree(step / "state"), (step / "state").symlink_to("nowhere")),
    "another's state": lambda step: put_in_place(step / "state", step.with_name("step_1") / "state"),
    "another's progress": lambda step: put_in_place(step / "progress", step.with_name("step_1") / "progress"),
    "another": lambda step: put_in_place(step, step.with_name("step_1")),
    "another number": lambda step: step.rename(step.with_name("step_7")),
    "one half-written beside it": lambda step: shutil.copytree(
        step / "state", step.with_name("step_3.orbax-checkpoint-tmp") / "state"
    ),
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_of_several_processes_the_first_checks_alone_before_all_read(pristine, tmp_path, monkeypatch):
    """As if there were several: one of them alone would wait for the others if it alone saw the damage."""
    folder = shutil.copytree(pristine / "checkpoints", tmp_path / "checkpoints")
    opened = Checkpoints(folder, keep=2)
    monkeypatch.setattr(checkpoint, "several", lambda: True)
    checked, check = [], Checkpoints._check_alone
    monkeypatch.setattr(
        Checkpoints, "_check_alone", lambda self, step, like: checked.append(step) or check(self, step, like)
    )
    assert opened.restore_newest(STATES[1])[0] == 2
    shutil.rmtree(folder / "step_2/state/d")
    restore = []
    read, restore = [], opened._manager.restore
    monkeypatch.setattr(opened._manager, "restore", lambda step, args: read.append(step) or restore(step, args=args))
    step, state, _ = opened.restore_newest(STATES[1])
    np.testing.assert_array_equal(state["x"], NOISE)
    assert (step, checked, read) == (1, [2, 2, 1], [1])
    opened.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "fault",
    mostly_full(FOLDER_FAULTS, ["another's state", "one half-written beside it"]),
)
def test_no_damage_to_a_folder_is_silently_wrong(fault, pristine, tmp_path):
    folder = shutil.copytree(pristine / "checkpoints", tmp_path / "checkpoints")
    fault(folder / "step_2")
    opened = Checkpoints(folder, keep=2)
    step, state, progress = opened.restore_newest(STATES[1])
    assert step == (2 if fault is FOLDER_FAULTS["one half-written beside it"] else 1)
    np.testing.assert_array_equal(state["x"], STATES[step]["x"])
    assert progress == {"at": step, "loss": 0.1 * step}
    opened.close()
    gc.collect()


def test_where_none_is_whole_it_says_so(checkpoints, tmp_path):
    for step in (1, 2):
        checkpoints.save(step, {"x": jnp.ones(3)}, {})
    checkpoints.wait()
    for step in (1, 2):
        shutil.rmtree(tmp_path / f"checkpoints/step_{step}/state")
    with pytest.raises(UserError, match=r"no checkpoint in .*checkpoints is whole \(step_2: .*; step_1: .*\); delete"):
        checkpoints.restore_newest({"x": jnp.ones(3)})


def reference_digest(array):
    """MurmurHash3's finaliser over the words and their positions, by NumPy and Python's integers."""
    words = array.view(f"u{array.dtype.itemsize}").reshape(-1)
    total = 0
    for at, word in enumerate(words.tolist()):
        mixed = (word ^ (at * 0x9E3779B9)) & 0xFFFFFFFF
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            mixed = (mixed ^ (mixed >> shift)) * factor & 0xFFFFFFFF
        total += mixed ^ (mixed >> 16)
    return total & 0xFFFFFFFF


@pytest.mark.parametrize("dtype", ["float32", "int32", "bfloat16", "int8"])
def test_a_digest_is_murmurs_sum_over_the_words(dtype):
    """It is written in checkpoints: another formula would call all earlier ones damaged."""
    numbers = (100 * np.random.default_rng(0).standard_normal((5, 20))).astype(jnp.dtype(dtype))
    assert _state_digest({"x": numbers}) == [reference_digest(numbers)]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 99), st.integers(0, 31))
def test_a_digest_tells_every_bit(word, bit):
    numbers = np.random.default_rng(0).standard_normal(100).astype(np.float32)
    changed = numbers.copy()
    changed.view(np.uint32)[word] ^= np.uint32(1) << np.uint32(bit)
    assert _state_digest([changed]) != _state_digest([numbers])


def test_a_digest_is_the_same_on_any_number_of_devices():
    numbers = jnp.asarray(np.random.default_rng(0).standard_normal((16, 24)), jnp.float32)
    mesh = jax.make_mesh((4, 2), ("a", "b"))
    spread = jax.device_put(numbers, jax.NamedSharding(mesh, jax.P("a", "b")))
    assert _state_digest([spread]) == _state_digest([numbers])


def test_a_file_that_cannot_be_written_is_one_line_and_leaves_what_is_there(checkpoints):
    """As on a full disk: the process may write no file of more than some bytes."""
    checkpoints.save(1, {"x": jnp.ones(10)}, {})
    checkpoints.wait()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    random = jnp.asarray(np.random.default_rng(0).standard_normal(100_000), jnp.float32)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))

    def save():
        checkpoints.save(2, {"x": random}, {})
        checkpoints.wait()

    try:
        with pytest.raises(UserError, match=r"could not be written to .*; that of step 1 is whole, and the same comm"):
            save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoints.restore_newest({"x": jnp.zeros(10)})[0] == 1


@pytest.mark.full
def test_a_large_model_needs_under_12_mb_of_checkpoint(checkpoints, tmp_path):
    """24 layers, 1024 wide, rank 8 on query and value, AdamW's two moments with it."""
    kernel, bias = jax.ShapeDtypeStruct((1024, 1024), jnp.float32), jax.ShapeDtypeStruct((1024,), jnp.float32)
    dense = {"kernel": kernel, "bias": bias}
    params = {f"layer_{i}": {"attention": {"query": dense, "value": dense}} for i in range(24)}
    shapes = jax.eval_shape(Adapter(HUT(rank=8)).init, jax.random.key(0), params)
    random = np.random.default_rng(0)

    def noise(leaf):
        return jnp.asarray((1000 * random.standard_normal(leaf.shape)).astype(leaf.dtype))

    factors = jax.tree.map(noise, shapes)
    optimizer = make_optimizer(TrainConfig(learning_rate=2e-2), 1000, jax.tree.map(lambda _: 1.0, factors))
    state = jax.tree.map(noise, jax.eval_shape(Steps(None, None, optimizer).init, factors))
    checkpoints.save(1, state, {"data": {}, "best": {}})
    checkpoints.wait()
    size = sum(path.stat().st_size for path in (tmp_path / "checkpoints").rglob("*") if path.is_file())
    numbers = 48 * (8 * 2048 + 2 * 1024)
    assert 0.9 * 3 * 4 * numbers < size < 12e6  # Orbax compresses a little

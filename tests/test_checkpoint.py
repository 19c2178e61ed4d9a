import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax import HUT, Adapter
from hut_jax.checkpoint import Checkpoints
from hut_jax.config import default_config
from hut_jax.optimizer import make_optimizer
from hut_jax.training import Steps


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
    restored, progress = checkpoints.restore(0, state)
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
    np.testing.assert_array_equal(checkpoints.restore(3, {"x": jnp.zeros(3, int)})[0]["x"], [3, 3, 3])


def test_a_large_model_needs_under_12_mb_of_checkpoint(checkpoints, tmp_path):
    """24 layers, 1024 wide, rank 8 on query and value, AdamW's two moments with it."""
    kernel, bias = jax.ShapeDtypeStruct((1024, 1024), jnp.float32), jax.ShapeDtypeStruct((1024,), jnp.float32)
    dense = {"kernel": kernel, "bias": bias}
    params = {f"layer_{i}": {"attention": {"query": dense, "value": dense}} for i in range(24)}
    shapes = jax.eval_shape(Adapter(HUT(rank=8)).init, jax.random.key(0), params)
    random = np.random.default_rng(0)

    def noise(leaf):
        return jnp.asarray(random.standard_normal(leaf.shape), leaf.dtype)

    factors = jax.tree.map(noise, shapes)
    optimizer = make_optimizer(default_config().train, 1000, jax.tree.map(lambda _: 1.0, factors))
    state = Steps(None, None, optimizer).init(factors)
    state = state.replace(opt_state=jax.tree.map(noise, state.opt_state))
    checkpoints.save(1, state, {"data": {}, "best": {}})
    checkpoints.wait()
    size = sum(path.stat().st_size for path in (tmp_path / "checkpoints").rglob("*") if path.is_file())
    numbers = 48 * (8 * 2048 + 2 * 1024)
    assert 0.9 * 3 * 4 * numbers < size < 12e6  # Orbax compresses a little

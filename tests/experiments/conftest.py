"""Records that no run made, and workdirs without the training."""

import jax
import numpy as np
import pytest

from experiments.record import Record, parse_name
from hut_jax.adapters.files import save_adapter
from hut_jax.config import freeze, to_json
from hut_jax.runs.run import make_run
from hut_jax.runs.workdir import ADAPTER, CONFIG


@pytest.fixture
def make():
    """A record with the given fields, and made-up others."""

    def make_one(method="hut", rank=4, seed=0, score=0.5, **fields):
        config = {"adapter.name": method, "train.learning_rate": 0.01} | (
            {} if rank is None else {"adapter.rank": rank}
        )
        adapter = method if rank is None else f"{method},rank={rank}"
        values = parse_name(fields.get("name", f"{adapter}/1/{seed}")) | {
            "rank": rank, "learning_rate": 0.01, "seed": seed, "score_name": "accuracy", "score": score,
            "maximize": True, "best": {"step": 3, "accuracy": score}, "metrics": [], "trainable": 1200,
            "total": 100_000, "adapter_bytes": 5000, "seconds_per_step": 0.25, "flops_per_step": 4_000_000_000,
            "peak_bytes": 3_000_000, "forgetting": None, "evaluation": None, "movement": None,
            "base": {"name": "x", "fingerprint": "y"}, "versions": {}, "device": "1 x cpu", "cores": 2,
            "platform": "Linux", "commit": "", "config": config,
        }  # fmt: skip
        return Record(**(values | fields))

    return make_one


@pytest.fixture
def finish(tmp_path):
    """The workdir of a config's run, as if it had been trained: every factor is a random number."""

    def finish_one(config):
        run = make_run(freeze(config))
        params = run.load_base()
        random = np.random.default_rng(0)
        factors = jax.tree.map(
            lambda leaf: 0.1 * random.normal(size=leaf.shape).astype(leaf.dtype),
            jax.eval_shape(run.adapter.init, jax.random.key(0), params),
        )
        workdir = tmp_path / "run"
        workdir.mkdir()
        (workdir / CONFIG).write_text(to_json(run.config))
        save_adapter(workdir / ADAPTER, run.adapter, factors, params, base_name=run.config.model)
        return workdir

    return finish_one

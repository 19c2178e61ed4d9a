"""Records that no run made."""

import pytest

from experiments.record import Record


@pytest.fixture
def make():
    """A record with the given fields, and made-up others."""

    def make_one(method="hut", rank=4, seed=0, score=0.5, **fields):
        config = {"adapter.name": method, "train.learning_rate": 0.01} | (
            {} if rank is None else {"adapter.rank": rank}
        )
        values = {
            "name": f"{method},rank={rank}/1/{seed}", "config": config, "seed": seed, "metrics": [],
            "best": {"step": 3, "accuracy": score}, "headline": "accuracy", "maximize": True, "trainable": 1200,
            "total": 100_000, "adapter_bytes": 5000, "seconds_per_update": 0.25, "peak_bytes": 3_000_000,
            "flops_per_update": 4_000_000_000, "forgetting": None, "base": {"name": "x", "fingerprint": "y"},
            "versions": {}, "device": "1 x cpu", "cores": 2, "platform": "Linux", "commit": "",
        }  # fmt: skip
        return Record(**(values | fields))

    return make_one

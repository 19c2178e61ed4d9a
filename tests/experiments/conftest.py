"""Records that no run made."""

import pytest

from experiments.record import Record, parse_name


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

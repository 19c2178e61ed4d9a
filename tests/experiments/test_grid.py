"""Which runs stand and are not made again."""

import pytest

from experiments.grid import run_missing
from experiments.record import fields_of, write_record
from hut_jax import UserError, cli
from hut_jax.config import resolve


def test_a_record_stands_as_long_as_its_config_computes_the_same(make, tmp_path):
    config = cli.load_config_file("configs/glue.py:mrpc")
    fields = fields_of(resolve(config))
    del fields["eval.max_examples"]  # as an earlier version had it
    record = make(config=fields)
    (tmp_path / "one").mkdir()
    write_record(tmp_path / "one", record)
    config.data.dir, config.train.remat = "/elsewhere", "full"
    assert run_missing({"one": config}, tmp_path) == {"one": record}
    config.eval.max_examples = 7
    with pytest.raises(UserError, match=r"one holds .*: eval.max_examples is 7 and was 0; give another --workdir"):
        run_missing({"one": config}, tmp_path)
    config.eval.max_examples = 0
    config.train.learning_rate, config.adapter.rank = 0.5, 4
    with pytest.raises(
        UserError, match=r"one holds .*: adapter.rank is 4 and was 8; train.learning_rate is 0.5 and was"
    ):
        run_missing({"one": config}, tmp_path)

"""What an adapter adds to a training step: in NNX as much as in Linen."""

import argparse

import pytest

from benchmarks.nnx import FROZEN, METHODS, TARGETS, figures, make_steps


@pytest.mark.full
@pytest.mark.parametrize("targets", TARGETS)
def test_an_adapter_adds_no_more_to_a_step_of_an_nnx_model_than_of_a_linen_model(targets):
    args = argparse.Namespace(width=32, layers=1, heads=2, batch=2, length=16, targets=targets)
    steps = {key: figures(compiled) for key, (compiled, _) in make_steps(args).items() if key[1] != "merge"}
    for method in METHODS:
        for name, base in steps[FROZEN, "linen"].items():
            added = steps[method, "linen"][name] - base
            assert added > 0
            assert steps[method, "nnx"][name] - steps[FROZEN, "nnx"][name] <= 1.05 * added, f"{method}: {name}"

"""Several adapters on one base: by name, off, side by side in a batch."""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax import HUT, Adapter, Bank, Full, HiRA, LoRA, UserError, combine
from hut_jax.models.gpt2 import GPT2
from hut_jax.models.gpt2_config import GPT2Config

MODEL = GPT2(GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2))
IDS = np.arange(24).reshape(4, 6) % 11


def noisy(tree, seed, size=0.3):
    """Random arrays of these shapes."""
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(np.float32(size * random.standard_normal(leaf.shape))), tree)


PARAMS = noisy(jax.eval_shape(MODEL.init, jax.random.key(0), IDS)["params"], 9)


def drawn(adapter, seed):
    """Random factors."""
    return noisy(jax.eval_shape(adapter.init, jax.random.key(0), PARAMS), seed)


@lru_cache
def program(adapter):
    """The model with one factor set, or with one for each row, as one function."""
    return jax.jit(lambda factors, tokens, ids=None: adapter.apply(MODEL, PARAMS, factors, tokens, adapter_ids=ids))


@lru_cache
def filled(adapter):
    bank = Bank(adapter, PARAMS)
    for seed, name in enumerate(("formal", "terse", "rhymed")):
        bank[name] = drawn(adapter, seed)
    return bank


def close(got, expected, rtol=1e-4, atol=1e-5):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rtol, atol=atol), got, expected)


def test_switching_and_turning_off_compile_nothing_anew():
    bank = filled(Adapter(HUT(rank=2)))
    run = jax.jit(lambda factors: bank.adapter.apply(MODEL, PARAMS, factors, IDS))
    outputs = {name: run(bank[name]) for name in bank}
    off = run(bank.off)
    assert run._cache_size() == 1
    np.testing.assert_array_equal(off, jax.jit(lambda: MODEL.apply({"params": PARAMS}, IDS))())
    everything = [np.asarray(out) for out in (off, *outputs.values())]
    for i, one in enumerate(everything):
        for other in everything[:i]:
            assert np.abs(one - other).max() > 1e-3


@pytest.mark.parametrize(
    "transform",
    [HUT(rank=4), *(pytest.param(one, marks=pytest.mark.full) for one in (HUT(rank=1), LoRA(rank=2)))],
    ids=str,
)
def test_rows_are_named(transform):
    bank = filled(Adapter(transform, "all-linear"))
    names = ["rhymed", None, "formal", "rhymed"]
    got = program(bank.adapter)(bank.stacked(), IDS, bank.ids(names))
    for row, name in enumerate(names):
        factors = bank.off if name is None else bank[name]
        alone = program(bank.adapter)(factors, IDS[row : row + 1])
        np.testing.assert_allclose(got[row], alone[0], rtol=1e-5, atol=1e-5)


def test_a_bank_is_a_table_by_name():
    bank = filled.__wrapped__(Adapter(HUT(rank=2)))
    assert list(bank) == ["formal", "terse", "rhymed"]
    assert "terse" in bank
    del bank["terse"]
    assert (len(bank), "terse" in bank) == (2, False)
    np.testing.assert_array_equal(bank.ids(["rhymed", None]), [2, 0])
    for action in (lambda: bank["rymed"], lambda: bank.ids(["rymed"]), lambda: bank.__delitem__("rymed")):
        with pytest.raises(UserError, match="no adapter is called 'rymed'; did you mean 'rhymed'"):
            action()


def test_factors_of_another_adapter_are_refused():
    bank = Bank(Adapter(HUT(rank=2)), PARAMS)
    with pytest.raises(UserError, match=r"factor .* has shape .*; its kernel wants"):
        bank["other"] = drawn(Adapter(HUT(rank=4)), 0)


def test_what_cannot_differ_by_row_is_refused():
    ids = np.array([0, 0, 0, 0])
    bank = filled(Adapter(Full(), "final_norm"))
    with pytest.raises(UserError, match=r"final_norm/\w+ trains in full, and cannot differ from row to row"):
        bank.adapter.apply(MODEL, PARAMS, bank.stacked(), IDS, adapter_ids=ids)
    bank = filled(Adapter(HUT(rank=2)))
    with pytest.raises(UserError, match=r"query is \[4, 6, 8\], whose first axis is not the 3 rows of adapter_ids"):
        bank.adapter.apply(MODEL, PARAMS, bank.stacked(), IDS, adapter_ids=ids[:3])
    with pytest.raises(UserError, match=r"with adapter_ids the factor sets are stacked on a new first axis"):
        bank.adapter.apply(MODEL, PARAMS, bank["terse"], IDS, adapter_ids=ids)


def test_lora_of_different_ranks_combine_exactly():
    one, two = Adapter(LoRA(rank=2, alpha=4.0)), Adapter(LoRA(rank=3, alpha=1.0, rs=True))
    factors = [drawn(adapter, seed) for seed, adapter in enumerate((one, two))]
    joint, combined = combine([(one, factors[0]), (two, factors[1])], [0.25, 2.0], PARAMS)
    assert joint.transform == LoRA(rank=5, alpha=5.0)
    check_sum(joint, combined, [(one, factors[0]), (two, factors[1])], [0.25, 2.0])


def check_sum(joint, combined, sets, weights):
    """The joint adapter's kernels are the base's plus the weighted sum of the differences."""

    @jax.jit
    def run(combined, *factors):
        merged = [adapter.merge(PARAMS, own) for (adapter, _), own in zip(sets, factors, strict=True)]
        return joint.merge(PARAMS, combined), merged

    got, merged = run(combined, *(factors for _, factors in sets))
    expected = jax.tree.map(
        lambda w, *own: w + sum(weight * (np.asarray(one) - w) for weight, one in zip(weights, own, strict=True)),
        jax.tree.map(np.asarray, PARAMS),
        *merged,
    )
    close(got, expected)


@pytest.mark.parametrize("transform", [LoRA(rank=2, alpha=4.0), HiRA(rank=2)], ids=["lora", "hira"])
def test_ranks_by_pattern_combine_in_either_order(transform):
    plain, varied = Adapter(transform), Adapter(transform, ranks={"query": 3})
    sets = [(one, drawn(one, seed)) for seed, one in enumerate((plain, varied))]
    for order in (1, -1):
        joint, combined = combine(sets[::order], [0.5, 2.0][::order], PARAMS)
        assert {site.transform.rank for site in joint.sites(PARAMS)} == {4, 5}
        check_sum(joint, combined, sets, [0.5, 2.0])


def test_a_place_whose_settings_stay_what_they_were_keeps_its_rank():
    """Where alpha is the rank the scaling is 1 already, and one set alone changes nothing there."""
    adapter = Adapter(LoRA(rank=2, alpha=2.0), ranks={"query": 3}, also_train="final_norm")
    factors = drawn(adapter, 0)
    joint, combined = combine([(adapter, factors)], [1.0], PARAMS)
    assert {site.transform.rank for site in joint.sites(PARAMS) if not site.also} == {2, 3}
    check_sum(joint, combined, [(adapter, factors)], [1.0])


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0, 1, 2, 4], r"adapter_ids go from 0 to 4, and there are 4 sets"),
        ([0, -1, 2, 3], r"adapter_ids go from -1 to 3, and there are 4 sets"),
        ([[0], [1], [2], [3]], r"adapter_ids are int32\[4, 1\]; one whole number for each row"),
        ([0.0, 1.0, 2.0, 3.0], r"adapter_ids are float32\[4\]; one whole number for each row"),
        ([True, False, True, False], r"adapter_ids are bool\[4\]; one whole number for each row"),
    ],
)
def test_ids_that_are_none_are_refused(ids, message):
    bank = filled(Adapter(HUT(rank=2)))
    with pytest.raises(UserError, match=message):
        bank.adapter.apply(MODEL, PARAMS, bank.stacked(), IDS, adapter_ids=ids)


def test_under_jit_an_id_without_a_set_gives_nan_in_its_row_alone():
    bank = filled(Adapter(HUT(rank=2)))
    out = program(bank.adapter)(bank.stacked(), IDS, np.array([1, 7, -1, 3]))
    np.testing.assert_array_equal(np.isnan(out).all(axis=(1, 2)), [False, True, True, False])
    assert np.isfinite(np.asarray(out)[[0, 3]]).all()


def test_under_jit_known_ids_are_still_checked():
    bank = filled(Adapter(HUT(rank=2)))

    @partial(jax.jit, static_argnums=0)
    def run(last):
        return bank.adapter.apply(MODEL, PARAMS, bank.stacked(), IDS, adapter_ids=[0, 1, 2, last])

    known = program(bank.adapter)(bank.stacked(), IDS, np.array([0, 1, 2, 3]))
    np.testing.assert_allclose(run(3), known, atol=1e-6)
    with pytest.raises(UserError, match="adapter_ids go from 0 to 4"):
        run(4)


def test_positions_out_of_their_rows_are_refused():
    bank = filled(Adapter(HUT(rank=2)))
    with pytest.raises(UserError, match="logits_at mixes positions of several rows"):
        bank.adapter.apply(
            MODEL, PARAMS, bank.stacked(), IDS, adapter_ids=bank.ids([None] * 4), logits_at=np.array([1])
        )


def test_sets_of_another_dtype_compile_nothing_anew():
    bank = filled.__wrapped__(Adapter(HUT(rank=2)))
    bank["half"] = jax.tree.map(lambda leaf: np.asarray(leaf).astype(jnp.bfloat16), bank["terse"])
    assert {leaf.dtype for leaf in jax.tree.leaves(bank["half"])} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize(
    ("adapters", "weights", "message"),
    [
        ([], [], "0 weights for 0 adapters"),
        ([Adapter(HUT(rank=2))], [1.0, 2.0], "2 weights for 1 adapters"),
        ([Adapter(HUT(rank=2)), Adapter(HUT(rank=2), "key$")], [1.0, 1.0], "site of one adapter and not of another"),
        ([Adapter(Full()), Adapter(Full(), "value")], [1.0, 1.0], "^final_norm/bias is a site of one adapter"),
        ([Adapter(HUT(rank=2)), Adapter(HUT(rank=4))], [1.0, 1.0], "do not combine: their settings differ"),
        ([Adapter(HUT(rank=2)), Adapter(LoRA(rank=2))], [1.0, 1.0], "hut and lora do not combine"),
    ],
)  # fmt: skip
def test_what_does_not_combine_is_refused(adapters, weights, message):
    sets = [(adapter, drawn(adapter, 0)) for adapter in adapters]
    with pytest.raises(UserError, match=message):
        combine(sets, weights, PARAMS)

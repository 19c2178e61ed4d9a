"""Against transformers 4's FlaxRoberta and FlaxBert classes, which need an environment of their own."""

import jax
import numpy as np
import pytest

from hut_jax.models.hub.saving import save_pretrained
from hut_jax.models.roberta import Roberta, default_positions
from hut_jax.models.roberta_config import RobertaConfig
from tests.parity import change, check_parity

pytestmark = pytest.mark.peers
MASK = np.arange(17) < np.array([[17], [11], [1]])
CLASSES = {"none": "Model", "mlm": "ForMaskedLM", "classification": "ForSequenceClassification"}


def noise(model):
    """Random parameters, the biases and norms too."""
    random = np.random.default_rng(0)
    tree = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 1), np.int32))["params"]
    return jax.tree.map(lambda leaf: random.normal(0.1, 0.3, leaf.shape).astype(np.float32), tree)


@pytest.fixture(scope="module")
def cases(run_flax, tmp_path_factory):
    """By kind and head: a model, its parameters, inputs, and what theirs makes of them."""
    cases, folders = {}, {}
    for kind, pad in (("roberta", 1), ("bert", 0)):
        for head, name in CLASSES.items():
            config = RobertaConfig(kind, 61, 20, 3, 4, 28, 24, pad_token_id=pad, head=head, labels=("a", "b", "c"))
            model = Roberta(config)
            params = noise(model)
            folder = tmp_path_factory.mktemp(f"{kind}_{head}")
            save_pretrained(folder, model, params)
            ids = np.where(MASK, np.random.default_rng(0).integers(2, 61, MASK.shape), pad)
            inputs = {
                "input_ids": ids,
                "attention_mask": MASK.astype(np.int32),
                "token_type_ids": (MASK & (np.arange(17) >= 6)).astype(np.int32),
                "position_ids": np.broadcast_to(default_positions(config, ids), MASK.shape),
            }
            np.savez(folder / "inputs.npz", **inputs)
            cases[kind, head] = model, params, inputs, folder
            folders[folder] = f"Flax{kind.capitalize()}{name}"
    outputs = run_flax(folders)
    return {names: (*case, outputs[folder]) for names, (*case, folder) in cases.items()}


@pytest.mark.parametrize("head", CLASSES)
@pytest.mark.parametrize("kind", ["roberta", "bert"])
def test_hidden_states_and_outputs(cases, kind, head):
    model, params, inputs, expected = cases[kind, head]

    def both(model, **inputs):
        hidden = model.hidden(**inputs)
        return hidden, model.pool(hidden) if head == "none" else model(**inputs)

    run = jax.jit(lambda params: model.apply({"params": params}, **inputs, method=both))
    trios = (run(params), (expected["hidden"], expected["output"]), run(change(params)))
    check_parity(*([np.asarray(each)[MASK if each.ndim == 3 else ...] for each in pair] for pair in trios), 1e-4)

"""The real SmolLM2 against PyTorch's."""

import jax
import numpy as np
import pytest

from hut_jax.generation import Beam, Constraints, Greedy, generate
from hut_jax.models.hub.pretrained import load_pretrained
from tests.parity import WITHOUT_YNNPACK, change, check_parity
from tests.peers.test_generation_torch import their_tokens

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.peers

SENTENCES = [
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "Once upon a time, there was a small village by the sea.",
    "Photosynthesis is the process by which plants make food from light.",
    "def add(a, b): return a + b",
    "She opened the door and saw that the room was empty.",
    "Water boils at 100 degrees Celsius at sea level.",
    "The quick brown fox jumps over the lazy dog.",
    "In 1969, two people walked on the moon for the first time.",
    "My favourite recipe begins with onions, garlic and olive oil.",
    "The stock market fell sharply on Monday after the announcement.",
    "If it rains tomorrow, we will stay at home and read.",
    "A triangle has three sides and three angles.",
    "To be, or not to be, that is the question.",
    "The restaurant near the river serves cheap Italian food.",
    "He did not know whether to laugh or cry.",
    "Machine learning models are trained on large amounts of data.",
    "name[The Mill], eatType[pub], food[English], area[riverside]",
    "The patient was advised to rest and drink plenty of fluids.",
    "Bonjour, je m'appelle Marie et j'habite près de Lyon.",
    "1, 1, 2, 3, 5, 8, 13, 21, 34, 55",
]
END, NEW = 2, 6


@pytest.fixture(scope="module")
def loaded(smollm2):
    """Theirs, ours, and the sentences as tokens."""
    _, folder = smollm2
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return theirs, *load_pretrained(folder), [tokenizer(text)["input_ids"] for text in SENTENCES]


def test_logits_of_20_sentences(loaded):
    theirs, model, params, tokens = loaded
    lengths = np.array([len(row) for row in tokens])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.array([row + [0] * (lengths.max() - len(row)) for row in tokens])
    with torch.no_grad():
        expected = theirs(torch.tensor(ids), attention_mask=torch.tensor(mask).long()).logits.numpy()[mask]
    run = jax.jit(model.apply, compiler_options=WITHOUT_YNNPACK)
    ours, changed = (np.asarray(run({"params": given}, ids, mask))[mask] for given in (params, change(params)))
    check_parity(ours, expected, changed, 1e-4)


@pytest.mark.parametrize("beams", [1, 4])
def test_what_it_writes(loaded, beams):
    """After 50 beginnings of the sentences."""
    theirs, model, params, tokens = loaded
    prompts = [row[: 2 + i % 12] for i, row in enumerate((3 * tokens)[:50])]
    options = {"num_beams": beams, "max_new_tokens": NEW, "eos_token_id": END}
    expected, _ = their_tokens((torch, transformers), theirs, prompts, options, see_prompt=False)
    method = Greedy() if beams == 1 else Beam(beams)

    def ours(params, prompts):
        return [one.tokens for one in generate(model, params, prompts, method, Constraints(NEW, END), batch_size=50)]

    assert ours(params, prompts) == expected
    assert len(expected) == 50
    if beams == 1:
        assert ours(change(params), prompts) != expected

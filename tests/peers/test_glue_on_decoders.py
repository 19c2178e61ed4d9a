"""A decoder fine-tuned on GLUE and merged, against transformers' classifier on the same padded batch."""

import jax
import numpy as np
import pytest

from hut_jax import load_pretrained
from hut_jax.config import freeze
from hut_jax.merge import main as merge
from hut_jax.runs.trained import load_run
from hut_jax.train import train
from tests.parity import check_parity

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PAIRS = [("a cat", "the mat"), ("the cat sat on a mat while rain fell", "nobody came all day"), ("a", "a")]


def test_the_logits_are_those_of_transformers_for_the_texts_as_its_tokenizer_pads_them(
    glue_config, small_decoder, tmp_path
):
    glue_config.task = "rte"
    glue_config.model = str(small_decoder)
    train(freeze(glue_config), tmp_path / "run")
    merge([f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'merged'}"])

    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "merged")
    batch = tokenizer(*map(list, zip(*PAIRS, strict=True)), padding=True, return_tensors="pt")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    assert type(theirs) is transformers.LlamaForSequenceClassification
    assert theirs.config.id2label == {0: "entailment", 1: "not_entailment"}
    with torch.no_grad():
        wanted = theirs(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.numpy()

    run = load_run(tmp_path / "run")
    encoded, _ = run.task.encode(PAIRS, run.tokenizer, run.config.data)
    length = int(encoded.inputs.max())
    ours = encoded.assemble(np.arange(3), 3, length, 3)
    np.testing.assert_array_equal(ours["input_ids"], batch["input_ids"].numpy())
    np.testing.assert_array_equal(ours["attention_mask"], batch["attention_mask"].numpy())
    model, params = load_pretrained(tmp_path / "merged")
    apply = jax.jit(model.apply)
    arrays = ours["input_ids"], ours["attention_mask"]
    unmerged = {**run.params, "classifier": params["classifier"]}  # the base, with the new head
    check_parity(apply({"params": params}, *arrays), wanted, apply({"params": unmerged}, *arrays), 1e-5)

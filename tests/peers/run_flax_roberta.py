"""Run by test_roberta_flax.py under the Python that has transformers 4's Flax classes: folder, class -> outputs.npz."""

import sys
from pathlib import Path

import numpy as np
import transformers

folder, name = Path(sys.argv[1]), sys.argv[2]
inputs = dict(np.load(folder / "inputs.npz"))
model = getattr(transformers, name).from_pretrained(folder, from_pt=False)
outputs = model(**inputs, output_hidden_states=True)
result = outputs["pooler_output"] if "pooler_output" in outputs else outputs["logits"]
np.savez(folder / "outputs.npz", hidden=np.asarray(outputs["hidden_states"][-1]), output=np.asarray(result))

"""Run by a Python that has transformers 4's Flax classes: classes and folders -> outputs.npz in each folder."""

import sys
from pathlib import Path

import numpy as np
import transformers

for name, folder in zip(sys.argv[1::2], map(Path, sys.argv[2::2]), strict=True):
    inputs = dict(np.load(folder / "inputs.npz"))
    model = getattr(transformers, name).from_pretrained(folder, from_pt=False)
    outputs = model(**inputs, output_hidden_states=True)
    result = outputs["pooler_output"] if "pooler_output" in outputs else outputs["logits"]
    np.savez(folder / "outputs.npz", hidden=np.asarray(outputs["hidden_states"][-1]), output=np.asarray(result))

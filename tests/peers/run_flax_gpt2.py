"""Run by test_gpt2_flax.py under the Python that has transformers 4's Flax classes: folder -> logits.npy."""

import sys
from pathlib import Path

import numpy as np
from transformers import FlaxGPT2LMHeadModel

folder = Path(sys.argv[1])
inputs = np.load(folder / "inputs.npz")
model = FlaxGPT2LMHeadModel.from_pretrained(folder, from_pt=False)
logits = model(inputs["input_ids"], attention_mask=inputs["attention_mask"], position_ids=inputs["position_ids"])[0]
np.save(folder / "logits.npy", np.asarray(logits))

"""Small models of PyTorch: random parameters of real size, and outputs without their rounding."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")


def shaken(model, by=0.3):
    """The model with noise on every parameter that trains: a start's zeros would hide what is left out."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(by * torch.randn_like(parameter))
    return model.eval()


def in_double(model, ids, *, changed=False) -> np.ndarray:
    """The model's logits, or its last hidden states, in fp64: what is then left is our own rounding.

    Args:
        model: the model.
        ids: token ids.
        changed: whether the model itself becomes one in fp64. Adapters that PEFT ties cannot be copied.
    """
    with torch.no_grad():
        out = (model if changed else copy.deepcopy(model)).eval().double()(torch.tensor(ids))
    return (out.logits if hasattr(out, "logits") else out.last_hidden_state).numpy()

"""What devices send each other in a training step of LoRA and of HUT: python -m benchmarks.collectives

HUT is counted twice: with a W for each part of the batch, as the library does it, and with one W for the whole batch.
Nothing is timed: the numbers are read from the compiled gradient, on eight virtual devices of the CPU.
"""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh

from benchmarks.xla_text import count_collectives
from hut_jax import HUT, Adapter, LoRA
from hut_jax.adapters.sharding import factor_specs
from hut_jax.models.gpt2 import GPT2
from hut_jax.models.gpt2_config import GPT2Config
from hut_jax.models.hub.pretrained import init_params
from hut_jax.parallel.activations import run_on
from hut_jax.parallel.mesh import TRANSFORMER, batch_parts, make_mesh, param_specs, place_batch, shardings
from hut_jax.tasks.causal_lm import causal_lm_loss

ROWS, LENGTH, SLOTS = 8, 16, 4
MODEL = GPT2(GPT2Config(vocab_size=64, n_positions=LENGTH, n_embd=64, n_layer=2, n_head=8))
MESHES = {"data 8": (8, 1, 1), "fsdp 8": (1, 8, 1)}


def main() -> None:
    """Print the table."""
    print("| mesh | LoRA r=2 | HUT r=2 | HUT r=2 with one W for all parts |\n|---|---|---|---|")
    for name, shape in MESHES.items():
        mesh = make_mesh(*shape)
        parts = batch_parts(mesh)
        counts = [count(mesh, LoRA(rank=2), parts), count(mesh, HUT(rank=2), parts), count(mesh, HUT(rank=2), 1)]
        print(f"| {name} | " + " | ".join(f"{number:,}" for number in counts) + " |")


def count(mesh: Mesh, transform: HUT | LoRA, parts: int) -> int:
    """How many numbers a device receives from the collectives of one gradient."""
    adapter = Adapter(transform)
    params = init_params(MODEL, jax.random.key(0))
    specs = param_specs(params, TRANSFORMER, mesh)
    lie = shardings(mesh, factor_specs(adapter.sites(params), specs))
    factors = jax.device_put(adapter.init(jax.random.key(0), params), lie)
    base = jax.device_put(params, shardings(mesh, specs))
    forward = run_on(mesh, partial(adapter.apply, MODEL, shards=parts))

    def loss(factors, base, batch):
        total, weight, _ = causal_lm_loss(partial(forward, base, factors), batch)
        return total, weight

    at = [row * LENGTH + slot for row in range(ROWS) for slot in range(SLOTS)]
    batch = {
        "input_ids": np.zeros((ROWS, LENGTH), np.int32),
        "attention_mask": np.ones((ROWS, LENGTH), bool),
        "logits_at": np.array(at, np.int32),
        "labels": np.zeros(len(at), np.int32),
        "weights": np.ones(len(at), np.float32),
    }
    whole = jax.NamedSharding(mesh, jax.P())
    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True), out_shardings=((whole, whole), lie))
    return sum(count_collectives(gradient.lower(factors, base, place_batch(mesh, batch)).compile().as_text()).values())


if __name__ == "__main__":
    main()

"""A base is read into its shards, and is never whole beside them: measured in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import serialization
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file

from hut_jax.models.gpt2 import GPT2
from hut_jax.models.gpt2_config import GPT2Config
from hut_jax.models.hub.pretrained import init_params
from hut_jax.models.hub.saving import save_pretrained

MEASURE = """
import re, sys, threading, time
import jax, jax.numpy as jnp
from hut_jax.models.compute import Compute
from hut_jax.models.hub.pretrained import build_model, init_params, load_pretrained
from hut_jax.parallel.mesh import TRANSFORMER, make_mesh, param_specs, shardings

def allocated():  # not what is mapped from files, which the system may take back
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

folder, scan = sys.argv[1], sys.argv[2] == "scan"
model = build_model(folder, compute=Compute(scan_layers=scan))
mesh = make_mesh(1, 8, 1)
shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
lie = shardings(mesh, param_specs(shapes, TRANSFORMER, mesh))
jax.block_until_ready(jax.device_put(jnp.ones(8), jax.devices()[1]))
before, peak, done = allocated(), 0, threading.Event()

def watch():
    global peak
    while not done.is_set():
        peak = max(peak, allocated())
        time.sleep(0.001)

watcher = threading.Thread(target=watch)
watcher.start()
_, params = load_pretrained(folder, shardings=lie, compute=Compute(scan_layers=scan))
jax.block_until_ready(params)
done.set()
watcher.join()
assert jax.tree.all(jax.tree.map(lambda leaf, where: leaf.sharding == where, params, lie))
print(peak - before)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of 270 MB, so large that what the measurement misses by is little of it."""
    folder = tmp_path_factory.mktemp("model")
    model = GPT2(GPT2Config(vocab_size=30_000, n_positions=256, n_embd=640, n_layer=10, n_head=10))
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    save_pretrained(folder, model, jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes))
    return folder


@pytest.fixture(scope="module")
def flax_folder(folder, tmp_path_factory):
    """The same model as Flax weights."""
    flax = tmp_path_factory.mktemp("flax")
    (flax / "config.json").write_bytes((folder / "config.json").read_bytes())
    tree = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        *modules, leaf = name.split(".")
        norm, table = modules[-1].startswith("ln_"), modules[-1] in ("wte", "wpe")
        kernel = "scale" if norm else "embedding" if table else "kernel"
        tree[*modules, leaf if leaf == "bias" else kernel] = tensor.T if kernel == "kernel" else tensor
    (flax / "flax_model.msgpack").write_bytes(serialization.to_bytes(unflatten_dict(tree)))
    return flax


@pytest.mark.full
@pytest.mark.parametrize(("layers", "kind"), [("apart", "folder"), ("scan", "folder"), ("scan", "flax_folder")])
def test_the_peak_is_at_most_a_third_more_than_the_file_and_a_shard(layers, kind, folder, request):
    read = request.getfixturevalue(kind)
    size = (folder / "model.safetensors").stat().st_size
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, read, layers], env=environment, capture_output=True, text=True, check=True
    )
    assert size < int(ran.stdout) + size / 8
    assert int(ran.stdout) <= 1.3 * size + size / 8

"""Against PyTorch's GPT2LMHeadModel, live, over random shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax.models.compute import Compute
from hut_jax.models.gpt2 import GPT2
from hut_jax.models.hub.pretrained import build_model, load_pretrained
from hut_jax.models.hub.saving import save_pretrained
from tests.parity import change, check_parity

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

ACTIVATIONS = ["gelu_new", "gelu", "relu", "silu", "swish", "tanh", "gelu_pytorch_tanh"]


def random_case(seed, dtype=torch.float32):
    """A model with every parameter random, token ids, and a mask of padding on either side."""
    random = np.random.default_rng(seed)
    heads = int(random.integers(1, 5))
    config = transformers.GPT2Config(
        vocab_size=int(random.integers(5, 200)),
        n_positions=int(random.integers(12, 40)),
        n_embd=heads * int(random.integers(1, 12)),
        n_layer=int(random.integers(1, 5)),
        n_head=heads,
        n_inner=None if seed % 2 else int(random.integers(1, 50)),
        activation_function=ACTIVATIONS[seed % len(ACTIVATIONS)],
        layer_norm_epsilon=float(random.choice([1e-5, 1e-3])),
        scale_attn_weights=bool(seed % 3),
        scale_attn_by_inverse_layer_idx=bool(seed % 4 == 0),
        tie_word_embeddings=bool(seed % 5),
        bos_token_id=0,
        eos_token_id=[1, 2],
    )
    torch.manual_seed(seed)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(float("ln_" in name and name.endswith("weight")) + 0.3 * torch.randn_like(parameter))
    batch, length = int(random.integers(1, 4)), int(random.integers(1, config.n_positions + 1))
    ids = random.integers(0, config.vocab_size, (batch, length))
    counts, places = random.integers(1, length + 1, (batch, 1)), np.arange(length)[None]
    mask = places < counts if seed % 2 else places >= length - counts
    return model.to(dtype), ids, mask


def their_logits(model, ids, mask):
    with torch.no_grad():
        return model(torch.tensor(ids), attention_mask=torch.tensor(mask.astype(np.int64))).logits


@pytest.mark.parametrize("seed", range(14))
def test_logits(tmp_path, seed):
    theirs, ids, mask = random_case(seed)
    theirs.save_pretrained(tmp_path, max_shard_size="5KB" if seed % 2 else "5GB")
    model, params = load_pretrained(tmp_path)
    run = jax.jit(model.apply)
    ours, changed = (np.asarray(run({"params": given}, ids, mask))[mask] for given in (params, change(params)))
    check_parity(ours, their_logits(theirs, ids, mask).numpy()[mask], changed, 1e-4)


def test_bf16_errs_no_more_than_torchs(tmp_path):
    theirs, ids, mask = random_case(1)
    theirs.save_pretrained(tmp_path)
    exact = their_logits(theirs, ids, mask).numpy()[mask]
    rounded = their_logits(theirs.to(torch.bfloat16), ids, mask).float().numpy()[mask]
    model, params = load_pretrained(tmp_path, compute=Compute(dtype=jnp.bfloat16))
    run = jax.jit(model.apply)
    ours, changed = (np.asarray(run({"params": given}, ids, mask))[mask] for given in (params, change(params)))
    own, others, peer = (np.sqrt(np.mean((logits - exact) ** 2)) for logits in (ours, changed, rounded))
    assert own < 1.3 * peer < others


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", [0, 3, 5])
def test_transformers_loads_what_is_saved(tmp_path, seed, dtype):
    theirs, ids, mask = random_case(seed, dtype)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = jnp.dtype(str(dtype).removeprefix("torch."))
    model, params = load_pretrained(tmp_path / "theirs", compute=Compute(dtype=ours, scan_layers=seed == 3))
    save_pretrained(tmp_path / "ours", model, params)
    again, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values())
    assert type(again) is transformers.GPT2LMHeadModel
    state = again.state_dict()
    for name, tensor in theirs.state_dict().items():
        assert state[name].dtype == dtype
        assert torch.equal(state[name], tensor), name
    assert torch.equal(their_logits(again.eval(), ids, mask), their_logits(theirs, ids, mask))


def test_config_means_the_same_to_transformers(tmp_path):
    theirs, *_ = random_case(4)
    theirs.save_pretrained(tmp_path / "theirs")
    model, params = load_pretrained(tmp_path / "theirs")
    save_pretrained(tmp_path / "ours", model, params)
    again = transformers.AutoConfig.from_pretrained(tmp_path / "ours")
    assert again.to_diff_dict() == transformers.AutoConfig.from_pretrained(tmp_path / "theirs").to_diff_dict()
    assert build_model(tmp_path / "ours").config == model.config


def test_gradients(tmp_path):
    """Of a loss on the next token, with respect to every parameter."""
    theirs, ids, mask = random_case(10)
    theirs.save_pretrained(tmp_path)
    model, params = load_pretrained(tmp_path)

    def loss(params):
        logits = GPT2(model.config).apply({"params": params}, jnp.asarray(ids), jnp.asarray(mask))
        logs = jax.nn.log_softmax(logits[:, :-1])
        picked = jnp.take_along_axis(logs, jnp.asarray(ids)[:, 1:, None], -1)[..., 0]
        return -(picked * mask[:, :-1]).sum()

    gradients = jax.jit(jax.grad(loss))
    ours, changed = gradients(params), gradients(change(params))
    logs = torch.log_softmax(theirs(torch.tensor(ids), attention_mask=torch.tensor(mask).long()).logits[:, :-1], -1)
    picked = logs.gather(-1, torch.tensor(ids)[:, 1:, None])[..., 0]
    (-(picked * torch.tensor(mask)[:, :-1]).sum()).backward()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(parameter.grad)
    theirs.save_pretrained(tmp_path / "gradients")
    expected = load_pretrained(tmp_path / "gradients")[1]
    check_parity(ours, expected, changed, 1e-4)

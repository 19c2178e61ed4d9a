"""The names of a decoder's tensors in Hugging Face's files, beside the paths of our parameters."""

from typing import TYPE_CHECKING

from hut_jax.interop.tensors import Tensor, TensorNames
from hut_jax.models.hub.names import activation_tensors

if TYPE_CHECKING:  # the config itself imports this module
    from hut_jax.models.decoder.config import DecoderConfig


def decoder_names(config: "DecoderConfig") -> TensorNames:
    """The tensors of a decoder, with the head that its config names."""
    body = "" if config.head == "none" else "model."  # transformers' class without a head is the body itself
    table, head = f"{body}embed_tokens.weight", "lm_head.weight"
    tensors = [
        Tensor(table, ("token_embedding/embedding",)),
        *(tensor for i in range(config.n_layer) for tensor in _layer(config, f"{body}layers.{i}", f"layer_{i}")),
        _norm(f"{body}norm", "final_norm"),
    ]
    tied: dict[str, str] = {}
    elsewhere: dict[str, str] = {}
    if config.head == "classification":
        tensors.append(Tensor("score.weight", ("classifier/out/kernel",), transpose=True))
    if config.head == "causal" and not config.tie_word_embeddings:
        tensors.append(Tensor(head, ("lm_head/kernel",), transpose=True))
    elif config.head == "causal":
        tied = {head: table}
    elif config.tie_word_embeddings:
        elsewhere = {head: table}
    return TensorNames(tensors, tied, "model.", elsewhere)


def _layer(config: "DecoderConfig", theirs: str, ours: str) -> list[Tensor]:
    heads, key_heads, traits = config.heads, config.key_heads, config.traits
    attention, mlp = f"{theirs}.self_attn", f"{theirs}.mlp"
    # Each of their modules, our layers that it computes, and the shares of its outputs that are theirs.
    modules: list[tuple[str, tuple[str, ...], tuple[int, ...]]]
    if traits.fused:
        inputs = ("attention/query", "attention/key", "attention/value")
        modules = [
            (f"{attention}.qkv_proj", inputs, (heads, key_heads, key_heads)),
            (f"{mlp}.gate_up_proj", ("mlp/gate", "mlp/up"), (1, 1)),
        ]
    else:
        modules = [
            (f"{attention}.q_proj", ("attention/query",), (1,)),
            (f"{attention}.k_proj", ("attention/key",), (1,)),
            (f"{attention}.v_proj", ("attention/value",), (1,)),
            (f"{mlp}.gate_proj", ("mlp/gate",), (1,)),
            (f"{mlp}.up_proj", ("mlp/up",), (1,)),
        ]
    modules += [(f"{attention}.o_proj", ("attention/out",), (1,)), (f"{mlp}.down_proj", ("mlp/down",), (1,))]
    tensors = []
    for module, layers, shares in modules:
        kernels = tuple(f"{ours}/{layer}/kernel" for layer in layers)
        tensors.append(Tensor(f"{module}.weight", kernels, transpose=True, shares=shares))
        if config.has_bias(layers[0].rpartition("/")[2]):
            biases = tuple(f"{ours}/{layer}/bias" for layer in layers)
            tensors.append(Tensor(f"{module}.bias", biases, shares=shares))
    norms = {"input_layernorm": "attention_norm"}
    if traits.gemma:
        norms |= {
            "post_attention_layernorm": "attention_out_norm",
            "pre_feedforward_layernorm": "mlp_norm",
            "post_feedforward_layernorm": "mlp_out_norm",
        }
    else:
        norms |= {"post_attention_layernorm": "mlp_norm"}
    if traits.query_key_norm:
        norms |= {"self_attn.q_norm": "attention/query_norm", "self_attn.k_norm": "attention/key_norm"}
    tensors += activation_tensors(config.hidden_act, f"{mlp}.act_fn", f"{ours}/mlp")
    return [*tensors, *(_norm(f"{theirs}.{name}", f"{ours}/{path}") for name, path in norms.items())]


def _norm(theirs: str, ours: str) -> Tensor:
    return Tensor(f"{theirs}.weight", (f"{ours}/scale",))

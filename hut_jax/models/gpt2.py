"""GPT-2 (Radford et al., "Language Models are Unsupervised Multitask Learners", 2019) in Flax Linen.

Written after the model's description and Hugging Face's config.json fields; the logits equal those of
`transformers.GPT2LMHeadModel` given the same arguments. The parameters are

    token_embedding/embedding, position_embedding/embedding
    layer_{i}/{attention_norm,mlp_norm}/{scale,bias}
    layer_{i}/attention/{query,key,value,out}/{kernel,bias}
    layer_{i}/mlp/{up,down}/{kernel,bias}
    final_norm/{scale,bias}
    lm_head/kernel                       only where the config does not tie it to the token embedding

and with `scan_layers` one `layers/...`, whose leaves have a leading layer axis.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from hut_jax.core.errors import UserError, nearest
from hut_jax.models.beam_cache import Branches, BranchMemory
from hut_jax.models.config import Ids, read_config
from hut_jax.models.dropout import Dropout
from hut_jax.models.embedding import Embed
from hut_jax.models.layers import (
    ACTIVATIONS,
    Heads,
    Hidden,
    HostOrDevice,
    Mask,
    Tokens,
    attend,
    check_attention,
    fp32_dot,
    layer_norm,
    recomputed,
)
from hut_jax.parallel.activations import shared_out

Memory = tuple[Any, Any] | BranchMemory  # one layer's cached keys and values, each Keys; or those of branches


@dataclasses.dataclass(frozen=True)
class GPT2Config:
    """The fields of Hugging Face's config.json that change what the model computes or how it starts.

    `reorder_and_upcast_attn` is not among them: attention's statistics are always in fp32 here.
    """

    model_type: ClassVar[str] = "gpt2"
    head: ClassVar[str] = "causal"

    vocab_size: int
    n_positions: int
    n_embd: int
    n_layer: int
    n_head: int
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    tie_word_embeddings: bool = True
    bos_token_id: Ids = 50256
    eos_token_id: Ids = 50256
    pad_token_id: Ids = None

    def __post_init__(self):
        if self.n_embd % self.n_head:
            raise UserError(f"n_embd {self.n_embd} is not divisible by n_head {self.n_head}")
        if self.activation_function not in ACTIVATIONS:
            known = nearest(self.activation_function, ACTIVATIONS)
            raise UserError(f"unsupported activation_function {self.activation_function!r}; {known}")
        for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 0 and below 1, not {getattr(self, name)}")

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str = "config.json") -> "GPT2Config":
        """Reads a parsed config.json; fields that say nothing about the language model are ignored.

        Raises:
            UserError: a field is missing, of the wrong kind, or asks for what is not supported.
        """
        if values.get("add_cross_attention"):
            raise UserError(f"{where}: 'add_cross_attention' is not supported: this GPT-2 has no encoder")
        return read_config(cls, values, where)

    def to_json(self) -> dict[str, Any]:
        """The fields as config.json has them, with `model_type`."""
        return {"model_type": self.model_type, **dataclasses.asdict(self)}

    @property
    def heads(self) -> int:
        """Of attention."""
        return self.n_head

    @property
    def attention_scales(self) -> tuple[float, ...]:
        """What each layer multiplies its query-key products with."""
        scale = (self.n_embd // self.n_head) ** -0.5 if self.scale_attn_weights else 1.0
        by_depth = self.scale_attn_by_inverse_layer_idx
        return tuple(scale / (depth + 1) if by_depth else scale for depth in range(self.n_layer))


@flax.struct.dataclass
class Cache:
    """The keys and values of the tokens read so far. Every call returns a new one.

    Attributes:
        keys: a tuple of one array a layer, `[batch, length, heads, head_width]`; with `scan_layers` one
            array with a leading layer axis. Either way the batch is axis -4.
        values: as `keys`.
        index: how many tokens have been read, a whole number: the next one is written there. Under jit a call
            cannot tell that it runs past the end, and would overwrite the last places: the caller counts.
    """

    keys: Any
    values: Any
    index: Any

    @property
    def length(self) -> int:
        """How many tokens there is room for."""
        return jax.tree.leaves(self.keys)[0].shape[-3]

    @property
    def memory(self) -> Any:
        """A tuple of one layer's keys and values each; with `scan_layers` all keys and all values."""
        pair = self.keys, self.values
        return tuple(zip(*pair, strict=True)) if isinstance(self.keys, tuple) else pair


class Attention(nn.Module):
    """Causal self-attention over several heads; with `memory`, over the remembered tokens too."""

    config: GPT2Config
    dtype: Any
    attention: str

    @nn.compact
    def __call__(self, x: Hidden, memory: Memory | None, scale, mask, index, deterministic: bool):
        """Returns the output, `[batch, length, width]`, and the new memory."""
        c = self.config
        normal = nn.initializers.normal(c.initializer_range)

        def heads(name: str) -> Heads:
            y = nn.Dense(c.n_embd, dtype=self.dtype, kernel_init=normal, name=name)(x)
            return shared_out(y.reshape(*x.shape[:-1], c.n_head, c.n_embd // c.n_head), None, "tensor", None)

        query, key, value = heads("query"), heads("key"), heads("value")
        if isinstance(memory, BranchMemory):
            y, memory = memory.attend(query, key, value, mask, scale, index)
        else:
            if memory is not None:
                key = jax.lax.dynamic_update_slice_in_dim(memory[0], key, index, axis=1)
                value = jax.lax.dynamic_update_slice_in_dim(memory[1], value, index, axis=1)
                memory = key, value
            drop = Dropout(c.attn_pdrop, deterministic=deterministic)
            y = attend(query, key, value, mask, scale, drop, self.attention if memory is None else "xla")
        out = nn.Dense(c.n_embd, dtype=self.dtype, kernel_init=_residual_normal(c), name="out")
        return out(y.reshape(x.shape)), memory


class MLP(nn.Module):
    """The position-wise feed-forward network."""

    config: GPT2Config
    dtype: Any

    @nn.compact
    def __call__(self, x: Hidden) -> Hidden:
        """Maps width -> n_inner -> width."""
        c = self.config
        normal = nn.initializers.normal(c.initializer_range)
        y = nn.Dense(c.n_inner or 4 * c.n_embd, dtype=self.dtype, kernel_init=normal, name="up")(x)
        y = ACTIVATIONS[c.activation_function](shared_out(y, None, "tensor"))
        return nn.Dense(c.n_embd, dtype=self.dtype, kernel_init=_residual_normal(c), name="down")(y)


class Layer(nn.Module):
    """One pre-norm transformer block."""

    config: GPT2Config
    dtype: Any
    attention: str

    @nn.compact
    def __call__(self, x: Hidden, memory: Memory | None, scale, mask, index, deterministic: bool):
        """Returns `(x, memory)`, as `nn.scan` wants it: what goes to the next layer, what is stacked."""
        c = self.config
        drop = Dropout(c.resid_pdrop, deterministic=deterministic)
        y = layer_norm(c.layer_norm_epsilon, self.dtype, "attention_norm")(x)
        attention = Attention(c, self.dtype, self.attention, name="attention")
        y, memory = attention(y, memory, scale, mask, index, deterministic)
        x = shared_out(x + drop(y), None, None)
        y = layer_norm(c.layer_norm_epsilon, self.dtype, "mlp_norm")(x)
        return shared_out(x + drop(MLP(c, self.dtype, name="mlp")(y)), None, None), memory


class GPT2(nn.Module):
    """The language model.

    Attributes:
        config: the sizes and rates.
        dtype: what is computed in; the parameters may have another. Statistics and logits are in fp32.
        remat: what the backward pass computes again of each layer, to save memory: "none"; "dots", all but the products
            with kernels; or "full", all.
        scan_layers: whether the layers are one `nn.scan`, which compiles one layer, however many there are.
        attention: "xla", or "cudnn" for cuDNN's fused kernel (`layers.attend`) where there is no cache.
    """

    config: GPT2Config
    dtype: Any = jnp.float32
    remat: str = "none"
    scan_layers: bool = False
    attention: str = "xla"

    def setup(self):
        """Names the parts."""
        c = self.config
        normal = nn.initializers.normal(c.initializer_range)
        self.token_embedding = Embed(c.vocab_size, c.n_embd, dtype=self.dtype, embedding_init=normal)
        self.position_embedding = Embed(c.n_positions, c.n_embd, dtype=self.dtype, embedding_init=normal)
        self.embedding_dropout = Dropout(c.embd_pdrop)
        check_attention(self.attention, self.dtype, c.n_embd // c.n_head)
        layer = recomputed(Layer, self.remat, deterministic=6, scanned=self.scan_layers)
        if self.scan_layers:
            self.layers = nn.scan(
                layer,
                variable_axes={"params": 0, "adapter": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=(0, 0, nn.broadcast, nn.broadcast, nn.broadcast),
                length=c.n_layer,
            )(c, self.dtype, self.attention)
        else:
            self.layer = [layer(c, self.dtype, self.attention) for _ in range(c.n_layer)]
        self.final_norm = layer_norm(c.layer_norm_epsilon, self.dtype)
        if not c.tie_word_embeddings:
            self.lm_head = nn.Dense(
                c.vocab_size, use_bias=False, dtype=self.dtype, kernel_init=normal, dot_general=fp32_dot
            )

    def __call__(
        self,
        input_ids: Tokens,
        attention_mask: Mask | None = None,
        *,
        position_ids: Int[HostOrDevice, "#batch length"] | None = None,
        deterministic: bool = True,
        cache: Cache | Branches | None = None,
        logits_at: Int[HostOrDevice, " n"] | None = None,
    ):
        """The logits of each position's next token, in fp32.

        Args:
            input_ids: token ids.
            attention_mask: 1 or True for the keys that may be attended to. There is one a token; with a
                cache one for each of the cache's places (those yet to be written do not matter); with branches
                one for each of the prompt's, a row a prompt.
            position_ids: default: 0, 1, ... from the cache's index on, whatever the mask, as in transformers'
                `forward`. So left padding wants them given, as `generation` does.
            deterministic: False turns dropout on; then an rng named "dropout" is needed.
            cache: from `init_cache` or an earlier call; or `branches.branch` of it. With branches a row of
                `input_ids` has the newest token of each of a prompt's branches, and `position_ids` must be given.
            logits_at: indices into the flattened `batch * length` positions. Only their logits are computed,
                which spares a large vocabulary's memory where most positions carry no loss.

        Returns:
            Logits, `[batch, length, vocab]` or with `logits_at` `[n, vocab]`; with a cache, `(logits, cache)`.

        Raises:
            UserError: more tokens than n_positions or than the cache has room for, or a mask of another length.
        """
        hidden = self.hidden(
            input_ids,
            attention_mask,
            position_ids=position_ids,
            deterministic=deterministic,
            cache=cache,
        )
        if cache is not None:
            hidden, cache = hidden
        if logits_at is not None:
            hidden = hidden.reshape(-1, hidden.shape[-1])[logits_at]
        logits = self.logits(hidden, deterministic=deterministic)
        return logits if cache is None else (logits, cache)

    def hidden(
        self,
        input_ids: Tokens,
        attention_mask: Mask | None = None,
        *,
        position_ids: Int[HostOrDevice, "#batch length"] | None = None,
        deterministic: bool = True,
        cache: Cache | Branches | None = None,
    ):
        """The final hidden states, after the final norm: `[batch, length, width]`, with a cache also the new one.

        Arguments and errors are those of a call. Use it as `model.apply(variables, ..., method="hidden")`.
        """
        c = self.config
        length = input_ids.shape[1]
        mask: Any
        if isinstance(cache, Branches):
            start, mask = cache.index, cache.mask(jnp.asarray(attention_mask, bool))
        else:
            start, keys = (0, length) if cache is None else (cache.index, cache.length)
            _check_lengths(c, length, start, keys, attention_mask)
            queries = start + jnp.arange(length)
            if position_ids is None:
                position_ids = queries[None]
            mask = (jnp.arange(keys) <= queries[:, None])[None, None]
            if attention_mask is not None:
                mask = mask & jnp.asarray(attention_mask, bool)[:, None, None, :]

        x = shared_out(self.token_embedding(input_ids) + self.position_embedding(position_ids), None, None)
        x = self.embedding_dropout(x, deterministic=deterministic)
        memory: Any = None if cache is None else cache.memory
        if self.scan_layers:
            scales = jnp.array(c.attention_scales, jnp.float32)
            x, memory = self.layers(x, memory, scales, mask, start, deterministic)
        else:
            old, new = memory or (None,) * c.n_layer, []
            for layer, one, scale in zip(self.layer, old, c.attention_scales, strict=True):
                x, one = layer(x, one, scale, mask, start, deterministic)
                new.append(one)
            memory = tuple(new)
        x = self.final_norm(x)
        if cache is None:
            return x
        if isinstance(cache, Branches):
            return x, cache.replace(memory=memory, index=start + 1)
        keys, values = memory if self.scan_layers else zip(*memory, strict=True)
        return x, Cache(keys=keys, values=values, index=start + length)

    def logits(
        self, hidden: Float[Array, "*batch width"], *, deterministic: bool = True
    ) -> Float[Array, "*batch vocab"]:
        """The logits, in fp32, of final hidden states. Only an adapter has dropout that `deterministic` is for."""
        if not self.config.tie_word_embeddings:
            return self.lm_head(hidden)
        table = self.token_embedding.embedding.astype(self.dtype)
        return jnp.einsum("...d,vd->...v", hidden, table, preferred_element_type=jnp.float32)

    def init_cache(self, batch: int, length: int) -> Cache:
        """An empty cache with room for `length` tokens in each of `batch` rows.

        Raises:
            UserError: `length` is above n_positions.
        """
        c = self.config
        _check_lengths(c, length, 0, length, None)
        shape = (batch, length, c.n_head, c.n_embd // c.n_head)

        def empty():
            if self.scan_layers:
                return jnp.zeros((c.n_layer, *shape), self.dtype)
            return tuple(jnp.zeros(shape, self.dtype) for _ in range(c.n_layer))

        return Cache(keys=empty(), values=empty(), index=jnp.zeros((), jnp.int32))


def _residual_normal(config: GPT2Config) -> Callable:
    # Each of the 2 * n_layer sublayers adds to the residual stream; at the start their sum keeps its scale.
    return nn.initializers.normal(config.initializer_range / math.sqrt(2 * config.n_layer))


def _check_lengths(config: GPT2Config, length: int, start, keys: int, attention_mask) -> None:
    if keys > config.n_positions:
        raise UserError(f"a sequence of {keys} tokens is longer than the model's n_positions {config.n_positions}")
    if attention_mask is not None and attention_mask.shape[-1] != keys:
        raise UserError(f"attention_mask covers {attention_mask.shape[-1]} keys, not {keys}")
    known = not isinstance(start, jax.core.Tracer)
    if length > keys or (known and int(start) + length > keys):
        read = f" and {int(start)} are in it" if known else ""
        raise UserError(f"{length} more tokens do not fit a cache for {keys} tokens{read}")

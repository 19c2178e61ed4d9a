"""GPT-2 (Radford et al., "Language Models are Unsupervised Multitask Learners", 2019) in Flax Linen.

Written after the model's description and Hugging Face's config.json fields; the logits equal those of
`transformers.GPT2LMHeadModel` given the same arguments. The parameters are

    token_embedding/embedding, position_embedding/embedding
    layer_{i}/{attention_norm,mlp_norm}/{scale,bias}
    layer_{i}/attention/{query,key,value,out}/{kernel,bias}
    layer_{i}/mlp/{up,down}/{kernel,bias}
    final_norm/{scale,bias}
    lm_head/kernel                       only if the config does not tie it to the token embedding; read wherever the
                                         parameters have it, as with an adapter's `untied`

and with `scan_layers` one `layers/...`, whose leaves have a leading layer axis.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from hut_jax.models.attention import Attention, LayerCache, same_segment
from hut_jax.models.beam_cache import BeamCache
from hut_jax.models.cache import Cache, check_lengths, check_segments, empty_cache
from hut_jax.models.dropout import Dropout
from hut_jax.models.gpt2_config import GPT2Config
from hut_jax.models.layers import MLP, at_positions, dense, fp32_dot, layer_norm, tied_logits
from hut_jax.models.shapes import Hidden, Indices, Mask, PerToken, Tokens
from hut_jax.models.transformer import Transformer
from hut_jax.parallel.activations import split_batch


class Layer(nn.Module):
    """One pre-norm transformer block."""

    config: GPT2Config
    dtype: Any
    attention: str

    @nn.compact
    def __call__(self, x: Hidden, cache: LayerCache | None, scale, mask, index, deterministic: bool):
        """Returns `(x, cache)`, as `nn.scan` expects: what the next layer gets, and what is stacked."""
        c = self.config
        stds = c.initializer_range, c.residual_range
        drop = Dropout(c.resid_pdrop, deterministic=deterministic)
        attention = Attention(c.n_head, c.attn_pdrop, *stds, self.dtype, self.attention, causal=True, name="attention")
        mlp = MLP(c.inner_width, c.activation_function, *stds, self.dtype, name="mlp")
        y = layer_norm(c.layer_norm_epsilon, self.dtype, "attention_norm")(x)
        y, cache = attention(y, mask, scale, deterministic, cache, index)
        x = split_batch(x + drop(y), None, None)
        y = layer_norm(c.layer_norm_epsilon, self.dtype, "mlp_norm")(x)
        return split_batch(x + drop(mlp(y)), None, None), cache


class GPT2(Transformer):
    """The language model. Its fields are those of `Transformer`."""

    config: GPT2Config

    def setup(self):
        """Name the parts."""
        c = self.config
        self.token_embedding = self.embedding(c.vocab_size, c.n_embd)
        self.position_embedding = self.embedding(c.n_positions, c.n_embd)
        self.embedding_dropout = Dropout(c.embd_pdrop)
        in_axes = (0, 0, nn.broadcast, nn.broadcast, nn.broadcast)
        self.add_layers(Layer, c.n_embd // c.n_head, deterministic=6, in_axes=in_axes)
        self.final_norm = layer_norm(c.layer_norm_epsilon, self.dtype)
        if self.has_head():
            self.lm_head = dense(c.vocab_size, c.initializer_range, self.dtype, use_bias=False, dot_general=fp32_dot)

    def __call__(
        self,
        input_ids: Tokens,
        attention_mask: Mask | None = None,
        *,
        position_ids: PerToken | None = None,
        segment_ids: PerToken | None = None,
        deterministic: bool = True,
        cache: Cache | BeamCache | None = None,
        logits_at: Indices | None = None,
    ):
        """The logits of each position's next token, in fp32.

        Args:
            input_ids: token ids.
            attention_mask: 1 or True for the keys that may be attended to. It has one key for each token. With a cache
                it has one key for each token that fits in the cache; tokens not yet written do not matter. With a
                `BeamCache` it has a row for each prompt, and one key for each token of the prompt.
            position_ids: default: 0, 1, ... from the cache's index on, whatever the mask, as in transformers'
                `forward`. Left padding therefore needs explicit positions, which `generation` gives.
            segment_ids: the number of each token's own text, where a row has several texts: a token attends only to
                those of its own number. It needs `position_ids`, and takes no cache. A row may then be longer than
                n_positions, but no text.
            deterministic: False turns dropout on. It needs an rng named "dropout".
            cache: from `init_cache` or an earlier call, or a `BeamCache`. With beams, a row of `input_ids`
                has the newest token of each beam of a prompt, and `position_ids` must be given.
            logits_at: indices into the flattened `batch * length` positions. Only their logits are computed, which
                saves memory if the vocabulary is large and few positions carry a loss.

        Returns:
            Logits, `[batch, length, vocab]` or with `logits_at` `[n, vocab]`; with a cache, `(logits, cache)`.

        Raises:
            UserError: there are more tokens than n_positions or than fit in the cache, the mask has another length, or
                `segment_ids` is given with a cache or without `position_ids`.
        """
        hidden = self.hidden(
            input_ids,
            attention_mask,
            position_ids=position_ids,
            segment_ids=segment_ids,
            deterministic=deterministic,
            cache=cache,
        )
        if cache is not None:
            hidden, cache = hidden
        logits = self.logits(at_positions(hidden, logits_at), deterministic=deterministic)
        return logits if cache is None else (logits, cache)

    def hidden(
        self,
        input_ids: Tokens,
        attention_mask: Mask | None = None,
        *,
        position_ids: PerToken | None = None,
        segment_ids: PerToken | None = None,
        deterministic: bool = True,
        cache: Cache | BeamCache | None = None,
    ):
        """The final hidden states, after the final norm: `[batch, length, width]`; with a cache also the new cache.

        Arguments and errors are those of a call. Use it as `model.apply(variables, ..., method="hidden")`.
        """
        c = self.config
        length = input_ids.shape[1]
        mask: Any
        check_segments(segment_ids, position_ids, cache)
        if isinstance(cache, BeamCache):
            start, mask = cache.index, cache.mask(jnp.asarray(attention_mask, bool))
        else:
            start, keys = (0, length) if cache is None else (cache.index, cache.length)
            if segment_ids is None:
                check_lengths(c.n_positions, length, start, keys, attention_mask)
            queries = start + jnp.arange(length)
            if position_ids is None:
                position_ids = queries[None]
            mask = (jnp.arange(keys) <= queries[:, None])[None, None]
            if attention_mask is not None:
                mask = mask & jnp.asarray(attention_mask, bool)[:, None, None, :]
            if segment_ids is not None:
                mask = mask & same_segment(segment_ids)

        x = split_batch(self.token_embedding(input_ids) + self.position_embedding(position_ids), None, None)
        x = self.embedding_dropout(x, deterministic=deterministic)
        caches: Any = None if cache is None else cache.layers
        if self.scan_layers:
            scales = jnp.array(c.attention_scales, jnp.float32)
            x, caches = self.layers(x, caches, scales, mask, start, deterministic)
        else:
            old, new = caches or (None,) * c.n_layer, []
            for layer, layer_cache, scale in zip(self.layer, old, c.attention_scales, strict=True):
                x, layer_cache = layer(x, layer_cache, scale, mask, start, deterministic)
                new.append(layer_cache)
            caches = tuple(new)
        x = self.final_norm(x)
        return x if cache is None else (x, cache.updated(caches, length))

    def logits(
        self, hidden: Float[Array, "*batch width"], *, deterministic: bool = True
    ) -> Float[Array, "*batch vocab"]:
        """The logits, in fp32, of final hidden states. `deterministic` is for an adapter's dropout."""
        if self.has_head():
            return self.lm_head(hidden)
        return tied_logits(hidden, self.token_embedding.embedding, self.dtype)

    @nn.nowrap
    def has_head(self) -> bool:
        """Whether the head has a kernel of its own: by the config, or since it is in the parameters."""
        return not self.config.tie_word_embeddings or self.has_variable("params", "lm_head")

    def init_cache(self, batch: int, length: int) -> Cache:
        """An empty cache with room for `length` tokens in each of `batch` rows.

        Raises:
            UserError: `length` is above n_positions.
        """
        c = self.config
        check_lengths(c.n_positions, length, 0, length, None)
        shape = batch, length, c.n_head, c.n_embd // c.n_head
        return empty_cache(c.n_layer, shape, self.dtype, stacked=self.scan_layers)

"""Decoders of the Llama kind in Flax Linen: one model, whose config holds the differences between the families.

Written after the families' descriptions and Hugging Face's config.json fields; the logits equal those of transformers'
classes given the same arguments. The parameters are

    token_embedding/embedding
    layer_{i}/{attention_norm,mlp_norm}/scale
    layer_{i}/{attention_out_norm,mlp_out_norm}/scale      Gemma
    layer_{i}/attention/{query,key,value,out}/kernel       and bias, where the config has it
    layer_{i}/attention/{query_norm,key_norm}/scale        Qwen 3, Gemma 3
    layer_{i}/mlp/{gate,up,down}/kernel                    and bias, where the config has it
    final_norm/scale
    lm_head/kernel                                         only if the config does not tie it to the token embedding;
                                                           read wherever the parameters have it
    classifier/out/kernel                                  classification

and with `scan_layers` one `layers/...`, whose leaves have a leading layer axis.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hut_jax.core.errors import UserError
from hut_jax.models.attention import same_segment
from hut_jax.models.beam_cache import BeamCache
from hut_jax.models.cache import Cache, check_lengths, check_segments, empty_cache
from hut_jax.models.decoder.config import DecoderConfig
from hut_jax.models.decoder.layers import Layer, View, norm
from hut_jax.models.decoder.rope import rotation
from hut_jax.models.layers import at_positions, dense, fp32_dot, tied_logits
from hut_jax.models.shapes import Hidden, Indices, Mask, PerToken, Tokens
from hut_jax.models.transformer import Transformer
from hut_jax.parallel.activations import split_batch


class Classifier(nn.Module):
    """The classification head."""

    config: DecoderConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "batch width"]) -> Float[Array, "batch labels"]:
        """The logits, in fp32."""
        c = self.config
        options: dict[str, Any] = {"use_bias": False, "dot_general": fp32_dot}
        return dense(len(c.labels), c.initializer_range, self.dtype, "out", **options)(x)


class Decoder(Transformer):
    """The decoder and the head that its config names. Its fields are those of `Transformer`."""

    config: DecoderConfig

    def setup(self):
        """Name the parts."""
        c = self.config
        if self.attention == "cudnn" and c.attn_logit_softcapping is not None:
            raise UserError("attention 'cudnn' cannot cap attention's logits, as this model does; 'xla' can")
        self.token_embedding = self.embedding(c.vocab_size, c.hidden_size)
        in_axes = (0, 0, nn.broadcast, nn.broadcast, nn.broadcast)
        self.add_layers(Layer, c.head_dim, deterministic=6, in_axes=in_axes, trace_twice=False)
        self.final_norm = norm(c, self.dtype)
        if c.head == "classification":
            self.classifier = Classifier(c, self.dtype)
        if self.has_head():
            self.lm_head = dense(c.vocab_size, c.initializer_range, self.dtype, use_bias=False, dot_general=fp32_dot)

    def __call__(
        self,
        input_ids: Tokens,
        attention_mask: Mask | None = None,
        *,
        token_type_ids: PerToken | None = None,
        position_ids: PerToken | None = None,
        segment_ids: PerToken | None = None,
        deterministic: bool = True,
        cache: Cache | BeamCache | None = None,
        logits_at: Indices | None = None,
    ):
        """The head's logits, in fp32; without a head the final hidden states.

        Args:
            input_ids: token ids.
            attention_mask: as `GPT2` takes it. For classification it tells the last token of each row, too.
            token_type_ids: which text of a pair each token belongs to. A decoder does not use it.
            position_ids: as `GPT2` takes them. With types of rotary positions that depend on the length, a text's
                length is its largest position plus 1, and the keys in a cache stay as they were written.
            segment_ids: as `GPT2` takes them; not for classification.
            deterministic: False turns dropout on. It needs an rng named "dropout".
            cache: as `GPT2` takes it; not for classification.
            logits_at: for the causal head: indices into the flattened `batch * length` positions. Only their logits are
                computed, which saves memory if the vocabulary is large and few positions carry a loss.

        Returns:
            Causal: logits of each position's next token, `[batch, length, vocab]` or with `logits_at` `[n, vocab]`.
            Classification: `[batch, labels]`, read at each row's last token. No head: `[batch, length, width]`.
            With a cache a pair, of which the second is the new cache.

        Raises:
            UserError: there are more tokens than n_positions or than fit in the cache, the mask has another length, or
                an argument is for another head.
        """
        c = self.config
        if logits_at is not None and c.head != "causal":
            raise UserError(f"logits_at is for head 'causal', which has logits at each position, not for {c.head!r}")
        if c.head == "classification" and not (cache is None and segment_ids is None):
            raise UserError("a cache and segment_ids are for other heads: 'classification' reads one whole text a row")
        hidden = self.hidden(
            input_ids,
            attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            segment_ids=segment_ids,
            deterministic=deterministic,
            cache=cache,
        )
        if cache is not None:
            hidden, cache = hidden
        if c.head == "none":
            return hidden if cache is None else (hidden, cache)
        read = _last(hidden, attention_mask) if c.head == "classification" else at_positions(hidden, logits_at)
        logits = self.logits(read, deterministic=deterministic)
        return logits if cache is None else (logits, cache)

    def hidden(
        self,
        input_ids: Tokens,
        attention_mask: Mask | None = None,
        *,
        token_type_ids: PerToken | None = None,
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
        if cache is None:
            start, keys = 0, length
        else:
            start, keys = cache.index, 0 if isinstance(cache, BeamCache) else cache.length
        check_segments(segment_ids, position_ids, cache)
        if segment_ids is None and not isinstance(cache, BeamCache):
            check_lengths(c.n_positions, length, start, keys, attention_mask)
        if position_ids is None:
            position_ids = start + jnp.arange(length)[None]
        kinds = list(dict.fromkeys(c.layer_kinds))
        masks = {kind.window: _mask(kind.window, cache, attention_mask, start, length, keys) for kind in kinds}
        text_lengths = _text_lengths(jnp.asarray(position_ids), segment_ids)
        if segment_ids is not None:
            masks = {window: mask & same_segment(segment_ids) for window, mask in masks.items()}
        views = []
        for kind in kinds:
            turn = functools.partial(
                rotation, kind.rope, position_ids, text_lengths, c.head_dim, c.max_position_embeddings, c.rotary_width
            )
            turns = turn() if cache is None else _once(turn, start)
            views.append(View(masks[kind.window], *turns))

        x = self.token_embedding(input_ids)
        if c.traits.gemma:
            x = x * jnp.asarray(c.hidden_size**0.5, x.dtype)
        x = split_batch(x, None, None)
        which = [kinds.index(kind) for kind in c.layer_kinds]
        caches: Any = None if cache is None else cache.layers
        if self.scan_layers:
            several = len(kinds) > 1
            view = jax.tree.map(lambda *leaves: jnp.stack(leaves), *views) if several else views[0]
            x, caches = self.layers(x, caches, jnp.array(which) if several else None, view, start, deterministic)
        else:
            old, new = caches or (None,) * c.n_layer, []
            for layer, layer_cache, number in zip(self.layer, old, which, strict=True):
                x, layer_cache = layer(x, layer_cache, None, views[number], start, deterministic)
                new.append(layer_cache)
            caches = tuple(new)
        x = self.final_norm(x)
        return x if cache is None else (x, cache.updated(caches, length))

    def logits(
        self, hidden: Float[Array, "*batch width"], *, deterministic: bool = True
    ) -> Float[Array, "*batch outputs"]:
        """The head's logits, in fp32, of final hidden states. `deterministic` is for an adapter's dropout.

        For classification the hidden states are those of each row's last token.
        """
        c = self.config
        if c.head == "classification":
            return self.classifier(hidden)
        if self.has_head():
            logits = self.lm_head(hidden)
        else:
            logits = tied_logits(hidden, self.token_embedding.embedding, self.dtype)
        cap = c.final_logit_softcapping
        return logits if cap is None else cap * jnp.tanh(logits / cap)

    @nn.nowrap
    def has_head(self) -> bool:
        """Whether the causal head has a kernel of its own: by the config, or since it is in the parameters."""
        c = self.config
        return c.head == "causal" and (not c.tie_word_embeddings or self.has_variable("params", "lm_head"))

    def init_cache(self, batch: int, length: int) -> Cache:
        """An empty cache with room for `length` tokens in each of `batch` rows.

        Raises:
            UserError: `length` is above n_positions.
        """
        c = self.config
        check_lengths(c.n_positions, length, 0, length, None)
        return empty_cache(c.n_layer, (batch, length, c.key_heads, c.head_dim), self.dtype, stacked=self.scan_layers)


def _mask(window: int | None, cache: Any, attention_mask: Mask | None, start: Any, length: int, keys: int) -> Any:
    """True where a query may attend to a key: to itself and earlier ones, with a window only to the newest of these."""
    if isinstance(cache, BeamCache):
        return cache.mask(jnp.asarray(attention_mask, bool), window)
    queries = (start + jnp.arange(length))[:, None]
    mask = jnp.arange(keys) <= queries
    if window is not None:
        mask = mask & (jnp.arange(keys) > queries - window)
    mask = mask[None, None]
    return mask if attention_mask is None else mask & jnp.asarray(attention_mask, bool)[:, None, None, :]


def _text_lengths(position_ids: Array, segment_ids: Any) -> Array:
    """The length of each token's text: of the row, or of those tokens that have its segment number."""
    if segment_ids is None:
        return position_ids.max(axis=-1, keepdims=True) + 1
    return jnp.where(same_segment(segment_ids)[:, 0], position_ids[:, None, :], 0).max(axis=-1) + 1


def _last(hidden: Hidden, attention_mask: Mask | None) -> Float[Array, "batch width"]:
    """The hidden states of each row's last token."""
    if attention_mask is None:
        return hidden[:, -1]
    places = jnp.arange(hidden.shape[1]) * jnp.asarray(attention_mask, bool)
    return jnp.take_along_axis(hidden, places.argmax(axis=-1)[:, None, None], axis=1)[:, 0]


def _once(compute: Callable[[], Any], index: Any) -> Any:
    """What a function returns, computed once in each call of the model.

    XLA would compute the cosines and sines again in each layer, for each head. It does not look into a branch, and does
    not know that an index is never negative.
    """
    nothing = jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype), jax.eval_shape(compute))
    return jax.lax.cond(jnp.asarray(index) >= 0, compute, lambda: nothing)

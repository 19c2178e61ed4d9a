"""RoBERTa (Liu et al., arXiv 1907.11692, 2019) and BERT (Devlin et al., arXiv 1810.04805, 2018) in Flax Linen.

One encoder with one of three heads. Written after the models' descriptions and Hugging Face's config.json fields; the
outputs equal those of transformers' classes given the same arguments. The parameters are

    token_embedding/embedding, position_embedding/embedding, type_embedding/embedding, embedding_norm/{scale,bias}
    layer_{i}/attention/{query,key,value,out}/{kernel,bias}
    layer_{i}/mlp/{up,down}/{kernel,bias}
    layer_{i}/{attention_norm,mlp_norm}/{scale,bias}
    pooler/{kernel,bias}                 without a head, and for BERT's classification
    classifier/dense/{kernel,bias}       RoBERTa's classification
    classifier/out/{kernel,bias}         classification
    mlm/{dense/{kernel,bias},norm/{scale,bias},bias}
    mlm/decoder/kernel                   only if the config does not tie it to the token embedding; read wherever the
                                         parameters have it, as with an adapter's `untied`

and with `scan_layers` one `layers/...`, whose leaves have a leading layer axis.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hut_jax.core.errors import UserError
from hut_jax.models.activations import activation
from hut_jax.models.attention import Attention
from hut_jax.models.dropout import Dropout
from hut_jax.models.layers import MLP, at_positions, dense, fp32_dot, layer_norm, tied_logits
from hut_jax.models.roberta_config import RobertaConfig
from hut_jax.models.shapes import Hidden, Indices, Mask, PerToken, Tokens
from hut_jax.models.transformer import Transformer
from hut_jax.parallel.activations import split_batch

AllKeys = Bool[Array, "#batch 1 1 keys"]


class Layer(nn.Module):
    """One post-norm transformer block."""

    config: RobertaConfig
    dtype: Any
    attention: str

    @nn.compact
    def __call__(self, x: Hidden, mask: AllKeys, deterministic: bool):
        """Returns `(x, None)`, as `nn.scan` expects: what the next layer gets, and what is stacked."""
        c = self.config
        std, heads = c.initializer_range, c.num_attention_heads
        drop = Dropout(c.hidden_dropout_prob, deterministic=deterministic)
        attention = Attention(
            heads, c.attention_probs_dropout_prob, std, std, self.dtype, self.attention, name="attention"
        )
        mlp = MLP(c.intermediate_size, c.hidden_act, std, std, self.dtype, name="mlp")
        y, _ = attention(x, mask, (c.hidden_size // heads) ** -0.5, deterministic)
        x = layer_norm(c.layer_norm_eps, self.dtype, "attention_norm")(split_batch(x + drop(y), None, None))
        y = mlp(x)
        return layer_norm(c.layer_norm_eps, self.dtype, "mlp_norm")(split_batch(x + drop(y), None, None)), None


class Classifier(nn.Module):
    """The classification head. RoBERTa's has a hidden layer of its own. BERT's reads the pooler's output."""

    config: RobertaConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "batch width"], deterministic: bool) -> Float[Array, "batch labels"]:
        """The logits, in fp32."""
        c = self.config
        drop = Dropout(c.classifier_rate, deterministic=deterministic)
        if c.model_type == "roberta":
            x = nn.tanh(dense(c.hidden_size, c.initializer_range, self.dtype, "dense")(drop(x)))
        return dense(len(c.labels), c.initializer_range, self.dtype, "out", dot_general=fp32_dot)(drop(x))


class MaskedLM(nn.Module):
    """The masked-language-model head."""

    config: RobertaConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "*n width"], table: Float[Array, "vocab width"]) -> Float[Array, "*n vocab"]:
        """The logits, in fp32. `table` is the token embedding, used if there is no decoder."""
        c = self.config
        std = c.initializer_range
        x = activation(c.mlm_activation)(dense(c.hidden_size, std, self.dtype, "dense")(x))
        x = layer_norm(c.layer_norm_eps, self.dtype, "norm")(x)
        bias = self.param("bias", nn.initializers.zeros, (c.vocab_size,))
        if c.tie_word_embeddings and not self.has_variable("params", "decoder"):
            y = tied_logits(x, table, self.dtype)
        else:
            y = dense(c.vocab_size, std, self.dtype, "decoder", use_bias=False, dot_general=fp32_dot)(x)
        return y + bias


class Roberta(Transformer):
    """The encoder and the head that its config names. Its fields are those of `Transformer`."""

    config: RobertaConfig

    def setup(self):
        """Name the parts."""
        c = self.config
        self.token_embedding = self.embedding(c.vocab_size, c.hidden_size)
        self.position_embedding = self.embedding(c.max_position_embeddings, c.hidden_size)
        self.type_embedding = self.embedding(c.type_vocab_size, c.hidden_size)
        self.embedding_norm = layer_norm(c.layer_norm_eps, self.dtype)
        self.embedding_dropout = Dropout(c.hidden_dropout_prob)
        self.add_layers(
            Layer, c.hidden_size // c.num_attention_heads, deterministic=3, in_axes=(nn.broadcast, nn.broadcast)
        )
        if c.has_pooler:
            self.pooler = dense(c.hidden_size, c.initializer_range, self.dtype)
        if c.head == "classification":
            self.classifier = Classifier(c, self.dtype)
        if c.head == "mlm":
            self.mlm = MaskedLM(c, self.dtype)

    def __call__(
        self,
        input_ids: Tokens,
        attention_mask: Mask | None = None,
        *,
        token_type_ids: PerToken | None = None,
        position_ids: PerToken | None = None,
        deterministic: bool = True,
        logits_at: Indices | None = None,
    ):
        """The head's logits, in fp32; without a head the final hidden states.

        Args:
            input_ids: token ids.
            attention_mask: 1 or True for the tokens that may be attended to. A row without any gets finite values too.
            token_type_ids: which text of a pair each token belongs to; default: 0 everywhere.
            position_ids: default for BERT: 0, 1, ... Default for RoBERTa: padding has the position `pad_token_id`, and
                the other tokens count from `pad_token_id + 1` on.
            deterministic: False turns dropout on. It needs an rng named "dropout".
            logits_at: for the masked-LM head: indices into the flattened `batch * length` positions. Only their logits
                are computed, which saves memory if the vocabulary is large and few positions carry a loss.

        Returns:
            Classification: `[batch, labels]`. Masked LM: `[batch, length, vocab]` or with `logits_at` `[n, vocab]`.
            No head: `[batch, length, width]`.

        Raises:
            UserError: there are more tokens than n_positions, the mask has another length, or logits_at is given for
                another head.
        """
        c = self.config
        if logits_at is not None and c.head != "mlm":
            raise UserError(f"logits_at is for head 'mlm', which has logits at each position, not for {c.head!r}")
        hidden = self.hidden(
            input_ids,
            attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            deterministic=deterministic,
        )
        if c.head == "none" and self.is_initializing():
            self.pool(hidden)
        return hidden if c.head == "none" else self.logits(at_positions(hidden, logits_at), deterministic=deterministic)

    def hidden(
        self,
        input_ids: Tokens,
        attention_mask: Mask | None = None,
        *,
        token_type_ids: PerToken | None = None,
        position_ids: PerToken | None = None,
        deterministic: bool = True,
    ) -> Hidden:
        """The final hidden states, whatever the head.

        Arguments and errors are those of a call. Use it as `model.apply(variables, ..., method="hidden")`.
        """
        c = self.config
        length = input_ids.shape[1]
        if length > c.n_positions:
            raise UserError(f"a sequence of {length} tokens is longer than the model's n_positions {c.n_positions}")
        if attention_mask is not None and attention_mask.shape[-1] != length:
            raise UserError(f"attention_mask covers {attention_mask.shape[-1]} keys, not {length}")
        mask = jnp.ones((1, length), bool) if attention_mask is None else jnp.asarray(attention_mask, bool)
        mask = mask[:, None, None, :]
        if position_ids is None:
            position_ids = default_positions(c, input_ids)
        if token_type_ids is None:
            token_type_ids = jnp.zeros((1, length), jnp.int32)

        x = split_batch(self.token_embedding(input_ids) + self.position_embedding(position_ids), None, None)
        x = self.embedding_norm(x + self.type_embedding(token_type_ids))
        x = self.embedding_dropout(x, deterministic=deterministic)
        if self.scan_layers:
            return self.layers(x, mask, deterministic)[0]
        for layer in self.layer:
            x, _ = layer(x, mask, deterministic)
        return x

    def pool(self, hidden: Hidden) -> Float[Array, "batch width"]:
        """The pooler's output for final hidden states."""
        return nn.tanh(self.pooler(hidden[:, 0]))

    def logits(self, hidden: Float[Array, "*n width"], *, deterministic: bool = True):
        """The head's logits, in fp32. For classification the hidden states are `[batch, length, width]`."""
        c = self.config
        if c.head == "mlm":
            return self.mlm(hidden, self.token_embedding.embedding)
        return self.classifier(self.pool(hidden) if c.has_pooler else hidden[:, 0], deterministic)


def default_positions(config: RobertaConfig, input_ids: Tokens) -> Int[Array, "#batch length"]:
    """The position of each token if the caller does not give them."""
    if config.model_type == "bert":
        return jnp.arange(input_ids.shape[1])[None]
    padding = config.position_offset - 1
    real = jnp.not_equal(input_ids, padding).astype(jnp.int32)
    return jnp.cumsum(real, axis=1) * real + padding

"""RoBERTa (Liu et al., arXiv 1907.11692, 2019) and BERT (Devlin et al., arXiv 1810.04805, 2018) in Flax Linen.

One encoder with one of three heads. Written after the models' descriptions and Hugging Face's config.json fields; what
it computes equals transformers' classes given the same arguments. The parameters are

    token_embedding/embedding, position_embedding/embedding, type_embedding/embedding, embedding_norm/{scale,bias}
    layer_{i}/attention/{query,key,value,out}/{kernel,bias}
    layer_{i}/mlp/{up,down}/{kernel,bias}
    layer_{i}/{attention_norm,mlp_norm}/{scale,bias}
    pooler/{kernel,bias}                 without a head, and for BERT's classification
    classifier/dense/{kernel,bias}       RoBERTa's classification
    classifier/out/{kernel,bias}         classification
    mlm/{dense/{kernel,bias},norm/{scale,bias},bias}
    mlm/decoder/kernel                   only where the config does not tie it to the token embedding

and with `scan_layers` one `layers/...`, whose leaves have a leading layer axis.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hut_jax.core.errors import UserError
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
from hut_jax.models.roberta_config import RobertaConfig
from hut_jax.parallel.activations import shared_out

AllKeys = Bool[Array, "#batch 1 1 keys"]


class Attention(nn.Module):
    """Self-attention over several heads; each token sees all that the mask shows."""

    config: RobertaConfig
    dtype: Any
    attention: str

    @nn.compact
    def __call__(self, x: Hidden, mask: AllKeys, deterministic: bool) -> Hidden:
        """Maps width -> width."""
        c = self.config
        head_width = c.hidden_size // c.num_attention_heads

        def heads(name: str) -> Heads:
            y = dense(c, self.dtype, c.hidden_size, name)(x)
            return shared_out(y.reshape(*x.shape[:-1], c.num_attention_heads, head_width), None, "tensor", None)

        drop = Dropout(c.attention_probs_dropout_prob, deterministic=deterministic)
        query, key, value = heads("query"), heads("key"), heads("value")
        y = attend(query, key, value, mask, head_width**-0.5, drop, self.attention)
        return dense(c, self.dtype, c.hidden_size, "out")(y.reshape(x.shape))


class MLP(nn.Module):
    """The position-wise feed-forward network."""

    config: RobertaConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: Hidden) -> Hidden:
        """Maps width -> intermediate_size -> width."""
        c = self.config
        y = shared_out(dense(c, self.dtype, c.intermediate_size, "up")(x), None, "tensor")
        y = ACTIVATIONS[c.hidden_act](y)
        return dense(c, self.dtype, c.hidden_size, "down")(y)


class Layer(nn.Module):
    """One post-norm transformer block."""

    config: RobertaConfig
    dtype: Any
    attention: str

    @nn.compact
    def __call__(self, x: Hidden, mask: AllKeys, deterministic: bool):
        """Returns `(x, None)`, as `nn.scan` wants it: what goes to the next layer, what is stacked."""
        c = self.config
        drop = Dropout(c.hidden_dropout_prob, deterministic=deterministic)
        y = Attention(c, self.dtype, self.attention, name="attention")(x, mask, deterministic)
        x = layer_norm(c.layer_norm_eps, self.dtype, "attention_norm")(shared_out(x + drop(y), None, None))
        y = MLP(c, self.dtype, name="mlp")(x)
        return layer_norm(c.layer_norm_eps, self.dtype, "mlp_norm")(shared_out(x + drop(y), None, None)), None


class Classifier(nn.Module):
    """The classification head: RoBERTa's has a hidden layer of its own, BERT's gets the pooler's output."""

    config: RobertaConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "batch width"], deterministic: bool) -> Float[Array, "batch labels"]:
        """The logits, in fp32."""
        c = self.config
        drop = Dropout(c.classifier_rate, deterministic=deterministic)
        if c.model_type == "roberta":
            x = nn.tanh(dense(c, self.dtype, c.hidden_size, "dense")(drop(x)))
        return dense(c, self.dtype, len(c.labels), "out", dot_general=fp32_dot)(drop(x))


class MaskedLM(nn.Module):
    """The masked-language-model head."""

    config: RobertaConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "*n width"], table: Float[Array, "vocab width"]) -> Float[Array, "*n vocab"]:
        """The logits, in fp32; `table` is the token embedding, used where the config ties the two."""
        c = self.config
        x = ACTIVATIONS[c.mlm_activation](dense(c, self.dtype, c.hidden_size, "dense")(x))
        x = layer_norm(c.layer_norm_eps, self.dtype, "norm")(x)
        bias = self.param("bias", nn.initializers.zeros, (c.vocab_size,))
        if c.tie_word_embeddings:
            y = jnp.einsum("...d,vd->...v", x, table.astype(self.dtype), preferred_element_type=jnp.float32)
        else:
            y = dense(c, self.dtype, c.vocab_size, "decoder", use_bias=False, dot_general=fp32_dot)(x)
        return y + bias


class Roberta(nn.Module):
    """The encoder and the head that its config names.

    Attributes:
        config: the sizes, the rates and the head.
        dtype: what is computed in; the parameters may have another. Statistics and logits are in fp32.
        remat: what the backward pass computes again of each layer, to save memory: "none"; "dots", all but the products
            with kernels; or "full", all.
        scan_layers: whether the layers are one `nn.scan`, which compiles one layer, however many there are.
        attention: "xla", or "cudnn" for cuDNN's fused kernel (`layers.attend`).
    """

    config: RobertaConfig
    dtype: Any = jnp.float32
    remat: str = "none"
    scan_layers: bool = False
    attention: str = "xla"

    def setup(self):
        """Names the parts."""
        c = self.config

        def embedding(count: int) -> nn.Embed:
            normal = nn.initializers.normal(c.initializer_range)
            return Embed(count, c.hidden_size, dtype=self.dtype, embedding_init=normal)

        self.token_embedding = embedding(c.vocab_size)
        self.position_embedding = embedding(c.max_position_embeddings)
        self.type_embedding = embedding(c.type_vocab_size)
        self.embedding_norm = layer_norm(c.layer_norm_eps, self.dtype)
        self.embedding_dropout = Dropout(c.hidden_dropout_prob)
        check_attention(self.attention, self.dtype, c.hidden_size // c.num_attention_heads)
        layer = recomputed(Layer, self.remat, deterministic=3, scanned=self.scan_layers)
        if self.scan_layers:
            self.layers = nn.scan(
                layer,
                variable_axes={"params": 0, "adapter": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=(nn.broadcast, nn.broadcast),
                length=c.num_hidden_layers,
            )(c, self.dtype, self.attention)
        else:
            self.layer = [layer(c, self.dtype, self.attention) for _ in range(c.num_hidden_layers)]
        if c.has_pooler:
            self.pooler = dense(c, self.dtype, c.hidden_size)
        if c.head == "classification":
            self.classifier = Classifier(c, self.dtype)
        if c.head == "mlm":
            self.mlm = MaskedLM(c, self.dtype)

    def __call__(
        self,
        input_ids: Tokens,
        attention_mask: Mask | None = None,
        *,
        token_type_ids: Int[HostOrDevice, "#batch length"] | None = None,
        position_ids: Int[HostOrDevice, "#batch length"] | None = None,
        deterministic: bool = True,
        logits_at: Int[HostOrDevice, " n"] | None = None,
    ):
        """The head's logits, in fp32; without a head the final hidden states.

        Args:
            input_ids: token ids.
            attention_mask: 1 or True for the tokens that may be attended to. A row without any gets finite values.
            token_type_ids: which text of a pair each token is of; default: 0 everywhere.
            position_ids: default: BERT counts 0, 1, ...; RoBERTa counts the tokens that are not `pad_token_id`,
                from `pad_token_id + 1` on, and gives the others `pad_token_id`.
            deterministic: False turns dropout on; then an rng named "dropout" is needed.
            logits_at: for the masked-LM head: indices into the flattened `batch * length` positions. Only their
                logits are computed, which spares a large vocabulary's memory where most positions carry no loss.

        Returns:
            Classification: `[batch, labels]`. Masked LM: `[batch, length, vocab]` or with `logits_at` `[n, vocab]`.
            No head: `[batch, length, width]`.

        Raises:
            UserError: more tokens than n_positions, a mask of another length, or logits_at where there are no
                logits of positions.
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
        if logits_at is not None:
            hidden = hidden.reshape(-1, hidden.shape[-1])[logits_at]
        if c.head == "none" and self.is_initializing():
            self.pool(hidden)
        return hidden if c.head == "none" else self.logits(hidden, deterministic=deterministic)

    def hidden(
        self,
        input_ids: Tokens,
        attention_mask: Mask | None = None,
        *,
        token_type_ids: Int[HostOrDevice, "#batch length"] | None = None,
        position_ids: Int[HostOrDevice, "#batch length"] | None = None,
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

        x = shared_out(self.token_embedding(input_ids) + self.position_embedding(position_ids), None, None)
        x = self.embedding_norm(x + self.type_embedding(token_type_ids))
        x = self.embedding_dropout(x, deterministic=deterministic)
        if self.scan_layers:
            return self.layers(x, mask, deterministic)[0]
        for layer in self.layer:
            x, _ = layer(x, mask, deterministic)
        return x

    def pool(self, hidden: Hidden) -> Float[Array, "batch width"]:
        """The pooler's output, from final hidden states."""
        return nn.tanh(self.pooler(hidden[:, 0]))

    def logits(self, hidden: Float[Array, "*n width"], *, deterministic: bool = True):
        """The head's logits, in fp32, of final hidden states: `[batch, length, width]`, or for masked LM any."""
        c = self.config
        if c.head == "mlm":
            return self.mlm(hidden, self.token_embedding.embedding)
        return self.classifier(self.pool(hidden) if c.has_pooler else hidden[:, 0], deterministic)


def default_positions(config: RobertaConfig, input_ids: Tokens) -> Int[Array, "#batch length"]:
    """Where each token stands, where the caller does not say."""
    if config.model_type == "bert":
        return jnp.arange(input_ids.shape[1])[None]
    padding = config.position_offset - 1
    real = jnp.not_equal(input_ids, padding).astype(jnp.int32)
    return jnp.cumsum(real, axis=1) * real + padding


def dense(config: RobertaConfig, dtype: Any, features: int, name: str | None = None, **how: Any) -> nn.Dense:
    """A dense layer whose kernel starts as the config says."""
    normal = nn.initializers.normal(config.initializer_range)
    return nn.Dense(features, dtype=dtype, kernel_init=normal, name=name, **how)

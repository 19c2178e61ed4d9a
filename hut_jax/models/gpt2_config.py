"""The config.json of GPT-2 as a dataclass."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

from hut_jax.core.errors import UserError, nearest
from hut_jax.interop.tensors import TensorNames
from hut_jax.models.activations import ACTIVATIONS
from hut_jax.models.config_json import Ids, read_config
from hut_jax.models.hub.names import gpt2_names

# The sizes that transformers takes where config.json has none, and its other names for them.
_SIZES = {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12}
_OTHER_NAMES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}


@dataclasses.dataclass(frozen=True)
class GPT2Config:
    """The fields of Hugging Face's config.json that change what the model computes or how it is initialised.

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
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must be from 0 to 1, not {getattr(self, name)}")

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str = "config.json") -> "GPT2Config":
        """Read a parsed config.json. Fields that do not concern the language model are ignored.

        A field that is missing has transformers' default.

        Raises:
            UserError: a field is of the wrong kind, or asks for what is not supported.
        """
        if values.get("add_cross_attention"):
            raise UserError(f"{where}: 'add_cross_attention' is not supported: this GPT-2 has no encoder")
        named = {_OTHER_NAMES.get(name, name): value for name, value in values.items()}
        return read_config(cls, {**_SIZES, **named}, where)

    def to_json(self) -> dict[str, Any]:
        """The fields as config.json has them, with `model_type`."""
        return {"model_type": self.model_type, **dataclasses.asdict(self)}

    def tensor_names(self) -> TensorNames:
        """The names of the model's tensors in Hugging Face's files."""
        return gpt2_names(self)

    @property
    def heads(self) -> int:
        """The number of attention heads."""
        return self.n_head

    @property
    def key_heads(self) -> int:
        """The number of heads of keys and values."""
        return self.n_head

    @property
    def inner_width(self) -> int:
        """The width of the feed-forward network's hidden layer."""
        return self.n_inner or 4 * self.n_embd

    @property
    def residual_range(self) -> float:
        """The initial standard deviation of the kernels whose outputs are added to the residual stream.

        There are 2 * n_layer such kernels. With this division their sum has the scale of a single one.
        """
        return self.initializer_range / math.sqrt(2 * self.n_layer)

    @property
    def attention_scales(self) -> tuple[float, ...]:
        """The factor of each layer's query-key products."""
        scale = (self.n_embd // self.n_head) ** -0.5 if self.scale_attn_weights else 1.0
        by_depth = self.scale_attn_by_inverse_layer_idx
        return tuple(scale / (depth + 1) if by_depth else scale for depth in range(self.n_layer))

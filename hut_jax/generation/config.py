"""The section `config.decode`."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from hut_jax.core.errors import UserError
from hut_jax.core.sections import section
from hut_jax.generation.beam import Beam
from hut_jax.generation.constraints import Constraints
from hut_jax.generation.method import Method
from hut_jax.generation.sampling import COLDEST, Greedy, Sampling


@section
class DecodeConfig:
    """How hut_jax.evaluate and hut_jax.generate write text. The defaults are the LoRA paper's for E2E."""

    method: Literal["beam", "greedy", "sample"] = Field(default="beam", description="how the next token is chosen")
    max_new_tokens: int = Field(default=64, ge=1, description="the most tokens of an output, including its end token")
    min_new_tokens: int = Field(default=0, ge=0, description="the fewest tokens of an output before its end token")
    no_repeat_ngram: int = Field(
        default=4, ge=0, description="the size of n-grams that may not repeat in an output; 0: all may repeat"
    )
    beams: int = Field(default=10, ge=1, description="beam search: the number of beams")
    length_penalty: float = Field(
        default=0.9,
        description="beam search: the exponent of the length; the LoRA paper's table 11 has 0.9, its code's README 0.8",
    )
    early_stopping: Literal["false", "true", "never"] = Field(
        default="false", description="beam search: when the search ends, as in transformers' generate"
    )
    temperature: float = Field(
        default=1.0, ge=COLDEST, description="sampling: the logits are divided by this; config.seed is the seed"
    )
    top_k: int = Field(
        default=0, ge=0, description="sampling: draw from this many of the likeliest tokens; 0: all tokens"
    )
    top_p: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="sampling: draw from the smallest set of likeliest tokens with this total probability",
    )
    batch_size: int = Field(default=16, ge=1, description="prompts decoded together")

    def __post_init__(self):
        try:
            self.make_constraints(None)
            method = self.make_method(seed=0)
            if isinstance(method, Beam):
                method.check_length(self.max_new_tokens)
        except UserError as error:
            raise UserError(f"config.decode: {error}") from None

    def make_method(self, seed: int) -> Method:
        """The method, with a seed for sampling."""
        if self.method == "greedy":
            return Greedy()
        if self.method == "sample":
            return Sampling(seed, self.temperature, self.top_k, self.top_p)
        early_stopping: bool | Literal["never"] = (
            "never" if self.early_stopping == "never" else self.early_stopping == "true"
        )
        return Beam(self.beams, self.length_penalty, early_stopping)

    def make_constraints(self, eos_id: int | Sequence[int] | None, never: Sequence[int] = ()) -> Constraints:
        """The constraints, with the tokenizer's end tokens and the ids that are none of its tokens."""
        return Constraints(self.max_new_tokens, eos_id, self.min_new_tokens, self.no_repeat_ngram, never=never)

    def check(self, model: Any) -> None:
        """Check the fields against the config of a model.

        Raises:
            UserError: more beams or tokens are asked for than the model's vocabulary has.
        """
        try:
            self.make_method(seed=0).check(model, self.make_constraints(None))
        except UserError as error:
            raise UserError(f"config.decode: {error}") from None

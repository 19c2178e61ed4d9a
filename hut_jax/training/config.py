"""The sections `config.train`, `config.log`, `config.eval` and `config.checkpoint`."""

from dataclasses import replace
from typing import Literal

from pydantic import Field

from hut_jax.core.errors import UserError
from hut_jax.core.sections import section
from hut_jax.transforms import Full, Transform


@section
class TrainConfig:
    """How the factors are trained."""

    epochs: float = Field(default=5.0, gt=0, le=1_000_000, description="passes over the training data")
    steps: int = Field(default=0, ge=0, lt=2**31, description="steps of the run; above 0 it replaces epochs")
    batch_size: int = Field(default=8, ge=1, description="examples in a step")
    accumulate: int = Field(default=1, ge=1, description="batches that a step is split into, to save memory")
    learning_rate: float = Field(default=0.0, ge=0, description="the peak learning rate; 0: the transformation's own")
    also_train_learning_rate: float = Field(
        default=0.0,
        ge=0,
        description="the peak learning rate of the adapter.also_train modules; 0: that of full fine-tuning",
    )
    warmup: float = Field(
        default=500.0,
        ge=0,
        description="steps over which the learning rate rises to its peak; below 1, a share of all steps",
    )
    decay: Literal["linear", "cosine", "constant"] = Field(
        default="linear", description="the learning rate after the warm-up; 'linear' and 'cosine' fall to zero"
    )
    weight_decay: float = Field(
        default=0.01, ge=0, description="AdamW's weight decay; it pulls the model towards the base"
    )
    clip: float = Field(default=1.0, ge=0, description="gradients are clipped to this norm; 0: no clipping")
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="the share of probability spread over all classes"
    )
    beta1: float = Field(default=0.9, ge=0, lt=1, description="AdamW's decay of the gradient's mean")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="AdamW's decay of the squared gradient's mean")
    eps: float = Field(default=1e-6, gt=0, description="AdamW's epsilon, added to the denominator")
    dropout: bool = Field(default=True, description="whether training uses the model's own dropout")
    remat: Literal["none", "dots", "full"] = Field(
        default="dots", description="what the backward pass recomputes: nothing, all but matrix products, or everything"
    )
    attention: Literal["xla", "cudnn"] = Field(
        default="xla", description="'cudnn' is fused, for NVIDIA GPUs in bfloat16, without dropout of attention weights"
    )
    scan_layers: bool = Field(default=False, description="compile one layer instead of all, which takes less time")

    def __post_init__(self):
        if self.batch_size % self.accumulate:
            raise UserError(
                f"config.train.accumulate is {self.accumulate}; "
                f"it must divide config.train.batch_size, {self.batch_size}"
            )

    def resolved(self, transform: Transform) -> "TrainConfig":
        """The same with the transformation's own learning rates in place of 0."""
        return replace(
            self,
            learning_rate=self.learning_rate or transform.learning_rate,
            also_train_learning_rate=self.also_train_learning_rate or Full.learning_rate,
        )


@section
class LogConfig:
    """How often metrics are logged."""

    every: int = Field(default=50, ge=1, description="steps between two lines of metrics.jsonl")


@section
class EvalConfig:
    """How the factors are validated."""

    every: int = Field(
        default=1000, ge=1, description="steps between two validations; the run also validates at its end"
    )
    on_start: bool = Field(
        default=True,
        description="validate before the first step, too: the base as it is, as the first candidate for the best",
    )
    batch_size: int = Field(default=32, ge=1, description="examples in a validation batch")
    max_examples: int = Field(
        default=0, ge=0, description="the most examples of each validation split, evenly spread over it; 0: all"
    )
    holdout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="the share of the training examples to validate on, in place of the validation splits; "
        "such a run chooses settings without them",
    )


@section
class CheckpointConfig:
    """How often a run is saved, so that it can resume."""

    every: int = Field(default=1000, ge=1, description="steps between two checkpoints; the run also saves at its end")
    keep: int = Field(default=2, ge=1, description="the number of newest checkpoints to keep")

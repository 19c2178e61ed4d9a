"""The section `config.data` of each task."""

from pydantic import Field

from hut_jax.core.sections import section


@section
class DataConfig:
    """The fields of every task."""

    length_multiple: int = Field(
        default=16,
        ge=1,
        description="pad the length of batches to a multiple of this many tokens; more: fewer compilations",
    )

    def padding(self) -> dict[str, int]:
        """The fields of `Batching` that say what shapes are padded to."""
        return {"length_multiple": self.length_multiple}


@section
class SequencesConfig(DataConfig):
    """The fields of tasks that predict tokens."""

    slot_multiple: int = Field(
        default=8, ge=1, description="pad the predicted tokens of batches to a multiple of this many an example"
    )

    def padding(self) -> dict[str, int]:
        """The fields of `Batching` that say what shapes are padded to."""
        return super().padding() | {"slot_multiple": self.slot_multiple}


@section
class E2EData(SequencesConfig):
    """The E2E data."""

    dir: str = Field(
        default="", description="the folder of trainset.csv, devset.csv and testset_w_refs.csv; empty: download"
    )
    cache: str = Field(default="", description="where TFDS keeps the prepared data; empty: its own folder")
    max_length: int = Field(default=512, ge=1, description="tokens of an example; longer examples are cut, and counted")
    max_examples: int = Field(
        default=0,
        ge=0,
        description="learn from at most this many examples, evenly spread over all; 0: from all",
    )


@section
class GlueData(DataConfig):
    """The data of a task of GLUE."""

    dir: str = Field(default="", description="the folder that holds CoLA/, SST-2/ and so on; empty: TFDS' download")
    cache: str = Field(default="", description="where TFDS keeps the prepared data; empty: its own folder")
    max_length: int = Field(
        default=512, ge=1, description="tokens of an example; in a longer one the longer text is cut"
    )
    max_examples: int = Field(
        default=0, ge=0, description="learn from the first examples, at most this many; 0: from all"
    )


@section
class TextData(SequencesConfig):
    """The text to model."""

    text: str = Field(default="", description="a UTF-8 text, plain or .xz")
    max_bytes: int = Field(default=0, ge=0, description="the most bytes of it that are read; 0: all")
    block: int = Field(default=256, ge=1, description="tokens of a training example")
    holdout: float = Field(
        default=0.01, gt=0, lt=1, description="the share of blocks kept for validation, from the text's end"
    )

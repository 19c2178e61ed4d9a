"""The section `config.data` of each task."""

from pydantic import Field

from hut_jax.core.sections import section


@section
class DataConfig:
    """The fields of every task."""

    length_multiple: int = Field(
        default=16,
        ge=1,
        description="batches are padded to a multiple of this many tokens; larger values compile fewer shapes",
    )

    def padding(self) -> dict[str, int]:
        """The padding fields of `Batching`."""
        return {"length_multiple": self.length_multiple}


@section
class SequencesConfig(DataConfig):
    """The fields of tasks that predict tokens."""

    slot_multiple: int = Field(
        default=8, ge=1, description="label slots of a batch are padded to a multiple of this many per example"
    )

    def padding(self) -> dict[str, int]:
        """The padding fields of `Batching`."""
        return super().padding() | {"slot_multiple": self.slot_multiple}


@section
class E2EData(SequencesConfig):
    """The E2E data."""

    dir: str = Field(
        default="", description="the folder of trainset.csv, devset.csv and testset_w_refs.csv; empty: download them"
    )
    cache: str = Field(default="", description="the folder where TFDS keeps the prepared data; empty: its default")
    max_length: int = Field(default=512, ge=1, description="the most tokens of an example; longer examples are cut")
    max_examples: int = Field(
        default=0,
        ge=0,
        description="the most training examples, evenly spread over the data; 0: all",
    )


@section
class GlueData(DataConfig):
    """The data of a task of GLUE."""

    dir: str = Field(default="", description="the folder that holds CoLA/, SST-2/ and so on; empty: TFDS' download")
    cache: str = Field(default="", description="the folder where TFDS keeps the prepared data; empty: its default")
    max_length: int = Field(
        default=512, ge=1, description="the most tokens of an example; the longer text of a longer example is cut"
    )
    max_examples: int = Field(
        default=0, ge=0, description="the most training examples, taken from the start of the data; 0: all"
    )


@section
class TextData(SequencesConfig):
    """The text to model."""

    text: str = Field(default="", description="the path of a UTF-8 text, plain or .xz")
    max_bytes: int = Field(default=0, ge=0, description="the most bytes to read of the text; 0: all")
    block: int = Field(default=256, ge=1, description="tokens of an example")
    holdout: float = Field(
        default=0.01, gt=0, lt=1, description="the share of examples for validation, from the end of the text"
    )

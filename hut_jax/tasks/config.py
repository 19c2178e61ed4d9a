"""The section `config.data` of each task."""

from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from hut_jax.core.errors import UserError
from hut_jax.core.sections import section
from hut_jax.data.batching import Batching, Examples
from hut_jax.data.packing import pack
from hut_jax.data.sequences import Sequences


@section
class DataConfig:
    """The fields of every task."""

    length_field: ClassVar[str]
    """The field that limits the tokens of an example."""

    length_multiple: int = Field(
        default=16,
        ge=1,
        description="batches are padded to a multiple of this many tokens; larger values compile fewer shapes",
    )

    @property
    def longest(self) -> int:
        """The most tokens of an example."""
        return getattr(self, self.length_field)

    def batching(self, size: int, seed: int) -> Batching:
        """Batches of `size` examples, padded as the section says."""
        return Batching(size, seed, length_multiple=self.length_multiple)

    def training(self, batching: Batching) -> Batching:
        """The same batches for the rows of training, if these need other shapes."""
        return batching

    def rows(self, examples: Examples, seed: int) -> Examples:
        """The rows of training batches: a row for each example, if the section says nothing else.

        Raises:
            UserError: an example does not fit in a row.
        """
        return examples

    def cut_notes(self, cut: int) -> tuple[str, ...]:
        """What to tell the user if examples were cut."""
        return (f"{cut} examples were cut to config.data.{self.length_field}, {self.longest} tokens",) if cut else ()


@section
class SequencesConfig(DataConfig):
    """The fields of tasks that predict tokens."""

    slot_multiple: int = Field(
        default=8, ge=1, description="label slots of a batch are padded to a multiple of this many per example"
    )

    def batching(self, size: int, seed: int) -> Batching:
        """Batches of `size` examples, padded as the section says."""
        return replace(super().batching(size, seed), slot_multiple=self.slot_multiple)


@section
class E2EData(SequencesConfig):
    """The E2E data."""

    length_field = "max_length"

    dir: str = Field(
        default="", description="the folder of trainset.csv, devset.csv and testset_w_refs.csv; empty: download them"
    )
    cache: str = Field(
        default="",
        description="the folder where TensorFlow Datasets (TFDS) keeps the prepared data; empty: its default folder",
    )
    max_length: int = Field(default=512, ge=1, description="the most tokens of an example; longer examples are cut")
    max_examples: int = Field(
        default=0,
        ge=0,
        description="the most training examples, evenly spread over the data; 0: all",
    )
    pack: int = Field(
        default=0,
        ge=0,
        description="in training, rows of this many tokens with several whole examples, which do not see each other; "
        "config.train.batch_size then counts rows. 0: a row for each example",
    )

    def training(self, batching: Batching) -> Batching:
        """The same batches for the rows of training. Packed rows are alike, and need few shapes."""
        if not self.pack:
            return batching
        return replace(batching, length_multiple=self.pack, slot_multiple=max(self.slot_multiple, self.pack // 16))

    def rows(self, examples: Examples, seed: int) -> Examples:
        """The rows of training batches, packed if the section says so."""
        if not self.pack:
            return examples
        assert isinstance(examples, Sequences)
        longest = int(examples.inputs.max())
        if longest > self.pack:
            raise UserError(
                f"config.data.pack is {self.pack}, and the longest training example takes {longest} tokens; set it to "
                f"{longest} or more, or config.data.max_length to {self.pack + 1} or less"
            )
        return pack(examples, self.pack, seed)


@section
class GlueData(DataConfig):
    """The data of a task of GLUE."""

    length_field = "max_length"

    dir: str = Field(
        default="",
        description="the folder that holds CoLA/, SST-2/ and so on; empty: TensorFlow Datasets (TFDS) downloads them",
    )
    cache: str = Field(
        default="",
        description="the folder where TensorFlow Datasets (TFDS) keeps the prepared data; empty: its default folder",
    )
    max_length: int = Field(
        default=512, ge=1, description="the most tokens of an example; the longer text of a longer example is cut"
    )
    max_examples: int = Field(
        default=0, ge=0, description="the most training examples, taken from the start of the data; 0: all"
    )


@section
class ChatData(SequencesConfig):
    """Instructions or conversations."""

    length_field = "max_length"

    file: str = Field(
        default="",
        description="a JSONL file; each line has 'messages', 'prompt' and 'completion', or 'text'",
    )
    validation: str = Field(default="", description="another such file for validation; empty: the end of file")
    holdout: int = Field(default=200, ge=1, description="the most examples for validation")
    template: str = Field(default="", description="a file with a chat template; empty: the tokenizer's own")
    max_length: int = Field(default=1024, ge=1, description="the most tokens of an example; longer examples are cut")
    row: int = Field(
        default=0,
        ge=0,
        description="tokens of a row, which holds several whole examples that do not see each other; "
        "config.train.batch_size counts rows. 0: max_length",
    )

    @property
    def row_length(self) -> int:
        """Positions of a row."""
        return self.row or self.max_length


@section
class TextData(SequencesConfig):
    """The text to model."""

    length_field = "block"

    text: str = Field(default="", description="the path of a UTF-8 text, plain or .xz")
    max_bytes: int = Field(default=0, ge=0, description="the most bytes to read of the text; 0: all")
    block: int = Field(default=256, ge=1, description="tokens of an example")
    holdout: float = Field(
        default=0.01, gt=0, lt=1, description="the share of examples for validation, from the end of the text"
    )

"""E2E: describe a restaurant in a sentence, given its attributes (Novikova et al., arXiv 1706.09254, 2017)."""

from collections.abc import Sequence

import numpy as np

from hut_jax.core.assets import here
from hut_jax.data.e2e.dataset import encode_e2e, encode_prompts, load_e2e, references
from hut_jax.data.tokenizer import Tokenizer
from hut_jax.metrics.e2e import java
from hut_jax.metrics.e2e.score import TextScores, evaluate
from hut_jax.tasks.base import ScoresTexts, TaskData
from hut_jax.tasks.causal_lm import CausalLM
from hut_jax.tasks.config import E2EData


class E2E(CausalLM, ScoresTexts):
    """Descriptions of meaning representations, from the files in `config.data.dir` or the public files."""

    name = "e2e"
    data_section = E2EData

    def load_data(self, data: E2EData, tokenizer: Tokenizer) -> TaskData:
        """The training and validation splits."""
        most = {"train": data.max_examples}
        records = load_e2e(here(data.dir), cache_dir=data.cache, splits=("train", "validation"), most=most)
        encoded = {split: encode_e2e(rows, tokenizer, data.max_length) for split, rows in records.items()}
        cut = sum(split.truncated for split in encoded.values())
        validation = {"validation": encoded["validation"].sequences}
        numbers: dict[str, int] = {}
        groups = np.array([numbers.setdefault(record.mr, len(numbers)) for record in records["train"]], np.int64)
        return TaskData(encoded["train"].sequences, validation, data.cut_notes(cut), groups)

    def prompts(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
        """Each meaning representation, followed by the token that separates it from its description."""
        return encode_prompts(texts, tokenizer)

    def load_references(self, data: E2EData) -> dict[str, list[str]]:
        """The human descriptions of each meaning representation in the test set."""
        return references(load_e2e(here(data.dir), cache_dir=data.cache, splits=["test"])["test"])

    def score_texts(self, outputs: Sequence[str], references: Sequence[Sequence[str]]) -> TextScores:
        """The five scores of the E2E challenge."""
        return evaluate(outputs, references)

    def can_score_fully(self) -> bool:
        """Whether Java is installed. METEOR needs it."""
        return java.is_there()

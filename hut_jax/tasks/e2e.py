"""E2E: describe a restaurant, given what is to be said of it (Novikova et al., arXiv 1706.09254)."""

from ml_collections import ConfigDict

from hut_jax.data.e2e.dataset import encode_e2e, load_e2e
from hut_jax.data.tokenizer_base import BaseTokenizer
from hut_jax.tasks.base import Task
from hut_jax.tasks.causal_lm import causal_lm_loss, lm_metrics


def load(config: ConfigDict, tokenizer: BaseTokenizer) -> Task:
    """The task on `config.data.dir`'s files, or on the public ones where it is empty.

    Raises:
        UserError: the data is missing or malformed.
    """
    records = load_e2e(
        config.data.dir,
        cache_dir=config.data.cache,
        splits=("train", "validation"),
        most={"train": config.data.max_examples},
    )
    encoded = {split: encode_e2e(rows, tokenizer, config.data.max_length) for split, rows in records.items()}
    cut = sum(split.truncated for split in encoded.values())
    notes = (f"{cut} examples were cut to config.data.max_length, {config.data.max_length} tokens",) if cut else ()
    train, validation = (encoded[split].sequences for split in ("train", "validation"))
    return Task(train, {"validation": validation}, causal_lm_loss, lm_metrics, notes=notes)

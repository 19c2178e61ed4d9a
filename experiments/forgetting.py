"""What a base loses as a language model by being fine-tuned: its loss on a text, before and after."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from hut_jax.adapters.files import load_adapter
from hut_jax.core.errors import UserError
from hut_jax.data.batching import Batching, batch_dataset
from hut_jax.data.sequences import Sequences
from hut_jax.data.text.dataset import load_text
from hut_jax.runs.run import head, load_any_tokenizer, load_base
from hut_jax.runs.workdir import ADAPTER
from hut_jax.tasks.causal_lm import causal_lm_loss
from hut_jax.training.steps import Evaluation

BLOCK, MAX_BYTES = 128, 400_000


def losses(config: ConfigDict, folder: Path, text: str) -> dict[str, float | str]:
    """The base's mean loss on the second half of the text's beginning, in nats a token, with and without the adapter.

    Args:
        config: of a run, whose base is a causal language model.
        folder: its workdir.
        text: UTF-8, plain or .xz.

    Raises:
        UserError: the text cannot be read, or is too short.
    """
    model, params = load_base(config)
    adapter, factors = load_adapter(folder / ADAPTER, params)
    examples = held_out(config, model, text)
    batches = list(batch_dataset(examples, Batching(config.eval.batch_size, shuffle=False, epochs=1)))
    evaluation = Evaluation(
        lambda params, _, *args, **kwargs: model.apply({"params": params}, *args, **kwargs), causal_lm_loss
    )
    before, after = (evaluation(each, {}, batches).loss for each in (params, adapter.merge(params, factors)))
    return {"text": Path(text).name, "before": before, "after": after}


def held_out(config: ConfigDict, model: Any, text: str) -> Sequences:
    """What the loss is taken of.

    Raises:
        UserError: the base is no causal language model, or the text cannot be read or is too short.
    """
    if head(config)["head"] != "causal":
        raise UserError(f"--text: forgetting is a causal language model's, and {config.task!r} has none; leave it out")
    tokenizer = load_any_tokenizer(config, model)
    return load_text(text, tokenizer, block=BLOCK, holdout=0.5, max_bytes=MAX_BYTES).validation

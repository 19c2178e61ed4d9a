"""How much of its language modelling a base forgets in fine-tuning: its loss on a text, before and after it."""

from pathlib import Path

from hut_jax.core.errors import UserError
from hut_jax.data.batching import Batching, batch_dataset
from hut_jax.data.sequences import Sequences
from hut_jax.data.text.dataset import load_text
from hut_jax.data.tokenizer import Tokenizer
from hut_jax.runs.trained import load_run
from hut_jax.tasks import GeneratesText, Task

BLOCK, MAX_BYTES = 128, 400_000


def losses(workdir: Path, text: str) -> dict[str, float | str]:
    """The mean loss in nats per token on a held-out part of the text, without and with the adapter.

    Args:
        workdir: of a run whose base is a causal language model.
        text: UTF-8, plain or .xz.

    Raises:
        UserError: the text cannot be read, or is too short.
    """
    run = load_run(workdir)
    examples = held_out(run.task, run.tokenizer, text)
    batches = list(batch_dataset(examples, Batching(run.config.eval.batch_size, shuffle=False, epochs=1)))
    evaluate = run.plain_evaluation()
    before, after = (evaluate(each, batches).loss for each in (run.params, run.merge()))
    return {"text": Path(text).name, "before": before, "after": after}


def held_out(task: Task, tokenizer: Tokenizer, text: str) -> Sequences:
    """The examples that the loss is taken on: the second half of the first `MAX_BYTES` of the text.

    Raises:
        UserError: the base is no causal language model, or the text cannot be read or is too short.
    """
    if not isinstance(task, GeneratesText):
        raise UserError(f"--text: forgetting is a causal language model's, and {task.name!r} has none; leave it out")
    return load_text(text, tokenizer, block=BLOCK, holdout=0.5, max_bytes=MAX_BYTES).validation

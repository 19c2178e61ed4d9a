"""Texts that a trained run generates, as its config says."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from hut_jax.core.errors import UserError
from hut_jax.generation import beam_search, greedy, sample
from hut_jax.parallel.activations import BATCH
from hut_jax.parallel.mesh import make_mesh
from hut_jax.runs.trained import TrainedRun
from hut_jax.tasks import GeneratesText

_EARLY_STOPPING: dict[str, Any] = {"false": False, "true": True, "never": "never"}


class Decoder:
    """Generates texts with the merged model of a run. Each device has the whole model and decodes a part of each batch.

    Args:
        run: of a task that generates text, its layers not scanned: a scan copies every layer's cache at every token.
        task: the run's.

    Raises:
        UserError: a merged parameter is not finite.
    """

    def __init__(self, run: TrainedRun, task: GeneratesText[Any]):
        self._run, self._task = run, task
        # As many devices as can share out a batch evenly.
        size = run.config.decode.batch_size
        count = max(n for n in range(1, len(jax.devices()) + 1) if size % n == 0)
        mesh = make_mesh(count, devices=jax.devices()[:count])
        self._params = jax.device_put(run.merge(), NamedSharding(mesh, PartitionSpec()))
        self._prompts = NamedSharding(mesh, PartitionSpec(BATCH))

    def generate(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> list[list[int]]:
        """The tokens that continue each text.

        Args:
            texts: meaning representations where the task is E2E, beginnings of texts where it is language modelling.
            progress: called after each batch with the number of its texts.

        Raises:
            UserError: a text is empty or too long, or `config.decode` does not fit the model.
        """
        run, decode = self._run, self._run.config.decode
        prompts = self._task.prompts(texts, run.tokenizer)
        options = {
            "max_new_tokens": decode.max_new_tokens,
            "min_new_tokens": decode.min_new_tokens,
            "no_repeat_ngram": decode.no_repeat_ngram,
            "eos_id": run.tokenizer.eos_id,
            "batch_size": decode.batch_size,
            "sharding": self._prompts,
            "progress": progress,
        }
        if decode.method == "greedy":
            return greedy(run.model, self._params, prompts, **options)
        if decode.method == "sample":
            drawing = {"temperature": decode.temperature, "top_k": decode.top_k, "top_p": decode.top_p}
            return sample(run.model, self._params, prompts, seed=run.config.seed, **drawing, **options)
        found = beam_search(
            run.model,
            self._params,
            prompts,
            beams=decode.beams,
            length_penalty=decode.length_penalty,
            early_stopping=_EARLY_STOPPING[decode.early_stopping],
            **options,
        )
        if not all(found):
            raise UserError(
                f"prompt {found.index([]) + 1} of {len(found)}: no text has a score; are the model's weights numbers?"
            )
        return [hypotheses[0].tokens for hypotheses in found]

    def text(self, tokens: Sequence[int]) -> str:
        """The tokens as one line of text."""
        return " ".join(self._run.tokenizer.decode(tokens).split())

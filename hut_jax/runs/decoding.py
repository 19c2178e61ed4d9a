"""Text generation with a trained run, as its config says."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from hut_jax.core.errors import UserError
from hut_jax.data.chat.template import end_of_turn
from hut_jax.generation import generate
from hut_jax.models.hub.generation_config import end_tokens
from hut_jax.parallel.activations import BATCH
from hut_jax.parallel.mesh import make_mesh
from hut_jax.runs.trained import TrainedRun
from hut_jax.tasks import GeneratesText
from hut_jax.tasks.chat import Messages

_TURN = 256
"""A conversation is padded to a multiple of this many tokens, since each length is compiled."""


class Decoder:
    """Generates texts with the merged model of a run.

    Each device has the whole model and decodes a part of each batch.

    Args:
        run: a run of a task that generates text. Its layers are not scanned: a scan copies every layer's cache at
            every token.
        task: the run's task; or `Messages`, by which any run with a chat template answers.

    Attributes:
        notes: messages for the user.

    Raises:
        UserError: a merged parameter is not finite.
    """

    def __init__(self, run: TrainedRun, task: GeneratesText):
        self._run, self._task = run, task
        # A chat template may end a turn with mere text.
        self._mark = end_of_turn(run.tokenizer).text if isinstance(task, Messages) else ""
        size = run.model.config.vocab_size
        self._never = run.tokenizer.missing(size)
        self._ends = _end_tokens(run, task) & (frozenset(range(size)) - {*self._never})
        self.notes = []
        if self._never:
            self.notes = [
                f"the model has {len(self._never):,} token ids that its tokenizer lacks; none is ever written"
            ]
        # The largest number of devices that divides the batch size.
        size = run.config.decode.batch_size
        count = max(n for n in range(1, len(jax.devices()) + 1) if size % n == 0)
        mesh = make_mesh(count, devices=jax.devices()[:count])
        self._params = jax.device_put(run.merge(), NamedSharding(mesh, PartitionSpec()))
        self._prompts = NamedSharding(mesh, PartitionSpec(BATCH))

    def generate(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> list[list[int]]:
        """The tokens that continue each text.

        Args:
            texts: meaning representations for E2E, beginnings of texts for language modelling.
            progress: called after each batch with the number of texts in it.

        Raises:
            UserError: a text is empty or too long, or `config.decode` does not fit the model.
        """
        return self._continue(self._task.prompts(texts, self._run.tokenizer), progress=progress)

    def answer(self, messages: Sequence[Mapping[str, str]]) -> str:
        """What the assistant says next in a conversation.

        Args:
            messages: each with a `role` and a `content`, the last one a user's.

        Raises:
            UserError: there is no chat template, it refuses the conversation, or the conversation is too long.
        """
        run, new = self._run, self._run.config.decode.max_new_tokens
        prompt, most = Messages().conversation(messages, run.tokenizer), run.model.config.n_positions
        if len(prompt) + new > most:
            raise UserError(
                f"the conversation has {len(prompt):,} tokens, an answer may have {new:,}, and the model takes "
                f"{most:,} in all; start a new one, or lower --config.decode.max_new_tokens"
            )
        (tokens,) = self._continue([prompt], length_multiple=_TURN)
        return self.text(tokens, one_line=False)

    def _continue(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[int]]:
        run, decode = self._run, self._run.config.decode
        found = generate(
            run.model,
            self._params,
            prompts,
            decode.make_method(run.config.seed),
            decode.make_constraints(sorted(self._ends), self._never),
            batch_size=decode.batch_size,
            sharding=self._prompts,
            **options,
        )
        return [continuation.tokens for continuation in found]

    def text(self, tokens: Sequence[int], *, one_line: bool = True) -> str:
        """The tokens as text, with or without its line ends."""
        text = self._run.tokenizer.decode(tokens)
        if self._mark:
            text = text.partition(self._mark)[0]
        return " ".join(text.split()) if one_line else text.strip()


def _end_tokens(run: TrainedRun, task: GeneratesText) -> frozenset[int]:
    """The task's end tokens, and those that the model's files name if the tokenizer's is one of them.

    If it is none of them, they may be the ids of another tokenizer.
    """
    ends, named = task.end_tokens(run.tokenizer), end_tokens(run.config.model, run.model.config)
    return named.union(ends) if run.tokenizer.eos_id in named else frozenset(ends)

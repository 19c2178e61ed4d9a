"""Text generation with a trained run, as its config says."""

from collections.abc import Callable, Sequence

import jax
from jax.sharding import NamedSharding, PartitionSpec

from hut_jax.generation import generate
from hut_jax.parallel.activations import BATCH
from hut_jax.parallel.mesh import make_mesh
from hut_jax.runs.trained import TrainedRun
from hut_jax.tasks import GeneratesText


class Decoder:
    """Generates texts with the merged model of a run.

    Each device has the whole model and decodes a part of each batch.

    Args:
        run: a run of a task that generates text. Its layers are not scanned: a scan copies every layer's cache at
            every token.
        task: the run's task.

    Attributes:
        notes: messages for the user.

    Raises:
        UserError: a merged parameter is not finite.
    """

    def __init__(self, run: TrainedRun, task: GeneratesText):
        self._run, self._task = run, task
        own, ends = run.tokenizer.eos_id, run.model.config.eos_token_id
        self._ends = ends if isinstance(ends, tuple) and own in ends else own  # a model may have several
        self._never = run.tokenizer.missing(run.model.config.vocab_size)
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
        run, decode = self._run, self._run.config.decode
        prompts = self._task.prompts(texts, run.tokenizer)
        found = generate(
            run.model,
            self._params,
            prompts,
            decode.make_method(run.config.seed),
            decode.make_constraints(self._ends, self._never),
            batch_size=decode.batch_size,
            sharding=self._prompts,
            progress=progress,
        )
        return [continuation.tokens for continuation in found]

    def text(self, tokens: Sequence[int]) -> str:
        """The tokens as one line of text."""
        return " ".join(self._run.tokenizer.decode(tokens).split())

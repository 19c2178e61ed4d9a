"""A trained run that writes: its best factors merged into its base, its tokenizer, and how its config decodes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from hut_jax.adapters.files import load_adapter, read_description
from hut_jax.config import flatten_config, validate
from hut_jax.core.errors import UserError, nearest
from hut_jax.data.e2e.dataset import encode_prompts
from hut_jax.data.tokenizer import Tokenizer, load_tokenizer
from hut_jax.generation import beam_search, greedy, sample
from hut_jax.parallel.activations import BATCH
from hut_jax.parallel.mesh import make_mesh
from hut_jax.runs import config_files
from hut_jax.runs.run import anywhere, load_base
from hut_jax.runs.workdir import ADAPTER, read_config

# What may differ from the run's own config: how it writes, and where this machine has things.
CHANGEABLE = ("decode.", "data.dir", "data.cache", "model", "tokenizer", "dtype", "seed")

_EARLY_STOPPING: dict[str, Any] = {"false": False, "true": True, "never": "never"}


@dataclass(frozen=True)
class Writer:
    """A model without an adapter's trace, and what turns texts to prompts and tokens to texts.

    Each device has the whole model, and its share of every batch.
    """

    model: Any
    params: Any
    tokenizer: Tokenizer
    config: ConfigDict
    prompts: NamedSharding
    """Where a batch of prompts lies."""

    def write(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> list[list[int]]:
        """For each text the tokens that follow it: what an MR should say, or how plain text goes on.

        Args:
            texts: MRs where the task is E2E; the beginnings of texts where it is language modelling.
            progress: told after each batch how many are done.

        Raises:
            UserError: a text is empty or too long, or `config.decode` does not fit the model.
        """
        if self.config.task == "e2e":
            prompts = encode_prompts(texts, self.tokenizer)
        else:
            prompts = self.tokenizer.encode_batch(texts)
        decode = self.config.decode
        options = {
            "max_new_tokens": decode.max_new_tokens,
            "min_new_tokens": decode.min_new_tokens,
            "no_repeat_ngram": decode.no_repeat_ngram,
            "eos_id": self.tokenizer.eos_id,
            "batch_size": decode.batch_size,
            "sharding": self.prompts,
            "progress": progress,
        }
        if decode.method == "greedy":
            return greedy(self.model, self.params, prompts, **options)
        if decode.method == "sample":
            drawing = {"temperature": decode.temperature, "top_k": decode.top_k, "top_p": decode.top_p}
            return sample(self.model, self.params, prompts, seed=self.config.seed, **drawing, **options)
        found = beam_search(
            self.model,
            self.params,
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
        return " ".join(self.tokenizer.decode(tokens).split())


def config_to_write(workdir: Path, overrides: Sequence[str]) -> ConfigDict:
    """The run's config with `--config.field=value` arguments applied.

    Raises:
        UserError: there is no run with an adapter, its task writes nothing, or an argument changes what a trained run
            cannot.
    """
    config = read_config(workdir)
    if config.task not in ("e2e", "lm"):
        raise UserError(f"the run in {workdir} is of the task {config.task!r}, which writes no text; 'e2e' and 'lm' do")
    read_description(workdir / ADAPTER)  # for its errors
    fields = [field for field in flatten_config(config) if field.startswith(CHANGEABLE)]
    for argument in overrides:
        name = argument.partition("=")[0]
        field = name.removeprefix("--config.")
        if name.startswith("--") and field == name:
            raise UserError(f"unknown argument {name}; {nearest(name, ['--workdir', '--config.decode.beams'])}")
        if name.startswith("--") and field not in fields:
            raise UserError(f"config.{field} cannot be changed after training; {nearest(field, fields)}")
    config_files.override(config, overrides)
    validate(config)
    return config


def load_writer(workdir: Path, config: ConfigDict, *, force: bool = False) -> Writer:
    """The run's writer.

    Args:
        workdir: of the run.
        config: from `config_to_write`.
        force: go on even if the base is not the one that the adapter was trained on.

    Raises:
        UserError: a part cannot be had, or does not fit another.
    """
    tokenizer = load_tokenizer(config.tokenizer or config.model)
    config = anywhere(config)
    config.train.scan_layers = False  # a scan copies every layer's cache at every token
    model, params = load_base(config)
    adapter, factors = load_adapter(workdir / ADAPTER, params, name=config.model, force=force)
    # As many devices as can share out a batch evenly.
    count = max(n for n in range(1, len(jax.devices()) + 1) if config.decode.batch_size % n == 0)
    mesh = make_mesh(count, devices=jax.devices()[:count])
    params = jax.device_put(adapter.merge(params, factors), NamedSharding(mesh, PartitionSpec()))
    return Writer(model, params, tokenizer, config, NamedSharding(mesh, PartitionSpec(BATCH)))

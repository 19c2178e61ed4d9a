"""The model card of an adapter: the README.md of its repository on the Hugging Face Hub."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import RepoCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id, yaml_dump

from hut_jax.adapters.adapter import Adapter
from hut_jax.core.assets import here
from hut_jax.core.errors import UserError
from hut_jax.core.locate import split_revision
from hut_jax.core.trees import flatten

MARK = "<!-- hut_jax wrote this card and replaces it at the next push. Delete this line to keep your changes. -->"
_HOME = "https://github.com/hut-jax/hut_jax"
_FENCE = "```"


def write_card(
    name: str,
    adapter: Adapter,
    trainable: int,
    base: Mapping[str, Any],
    head: str | None = None,
    scores: Mapping[str, float] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> str:
    """The text of a model card: what the adapter is, its scores, and how to load it.

    Args:
        name: the repository, `user/name`.
        adapter: what the card describes.
        trainable: the number of trainable parameters.
        base: the base's `name` and `fingerprint`; either may be None.
        head: the `head=` that `load_pretrained` wants for the base, as code; None: its own.
        scores: the scores to show, by name.
        metadata: that of an earlier card. What does not come from the adapter, such as a licence, is kept.

    Raises:
        UserError: a score is not a finite number.
    """
    base_name = base.get("name") if isinstance(base.get("name"), str) else None
    repository = _repository(base_name) if base_name else None
    fields = {
        "library_name": "hut_jax",
        **({"base_model": repository, "base_model_relation": "adapter"} if repository else {}),
        "tags": ["hut_jax", "jax", adapter.transform.name],
    }
    called = f"`{base_name if repository else Path(base_name).name}`" if base_name else "a base without a name"
    shown = f"[{base_name}](https://huggingface.co/{repository})" if repository else called
    parts = [
        f"---\n{yaml_dump({**(metadata or {}), **fields}).strip()}\n---",
        f"# {name.rpartition('/')[2]}",
        f"An adapter of {shown}, trained with [hut_jax]({_HOME}).",
        "\n".join(_facts(adapter, trainable, called, base.get("fingerprint"))),
        *_table(scores or {}),
        "## How to load it",
        f"{_FENCE}python\n{_code(name, head, base_name if repository else None)}\n{_FENCE}",
        MARK,
    ]
    return "\n\n".join(parts) + "\n"


def is_ours(card: str) -> bool:
    """Whether a card may be replaced: we wrote it and its mark is still there, or it has metadata alone."""
    return MARK in card or not _parsed(card)[1].strip()


def metadata_of(card: str) -> dict[str, Any]:
    """The metadata at the head of a card."""
    return _parsed(card)[0]


def _parsed(card: str) -> tuple[dict[str, Any], str]:
    """The metadata of a card, and its text."""
    if not card.lstrip().startswith("---"):
        return {}, card
    try:
        parsed = RepoCard(card, ignore_metadata_errors=True)
    except Exception:  # whatever the YAML reader has against it
        return {}, card
    return parsed.data.to_dict(), parsed.text


def _facts(adapter: Adapter, trainable: int, base: str, fingerprint: Any) -> list[str]:
    """The list of what the adapter is."""
    facts = {
        "Base": base + (f", fingerprint `{fingerprint[:12]}`" if isinstance(fingerprint, str) else ""),
        "Method": f"`{adapter.transform}`",
        "Targets": ", ".join(f"`{pattern}`" for pattern in adapter.targets) or "the method's default",
        "Left out": ", ".join(f"`{pattern}`" for pattern in adapter.exclude),
        "Ranks": ", ".join(f"{rank} at `{pattern}`" for pattern, rank in adapter.ranks),
        "Trained in full": ", ".join(f"`{pattern}`" for pattern in adapter.also_train),
        "Trainable parameters": f"{trainable:,}",
    }
    return [f"- **{title}:** {text}" for title, text in facts.items() if text]


def _table(scores: Mapping[str, float]) -> list[str]:
    """The heading and the table of the scores; nothing if there are none."""
    for score, value in scores.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"scores[{score!r}] is {value!r}; give a finite number")
    rows = [f"| {score.replace('|', chr(92) + '|')} | {value:.6g} |" for score, value in scores.items()]
    return ["## Scores", "\n".join(["| score | value |", "|---|--:|", *rows])] if rows else []


def head_of(factors: Mapping[str, Any]) -> str | None:
    """The head of the base that trained in full, as the code that asks `load_pretrained` for it; None if none did."""
    deviations = {path: leaf for path, leaf in flatten(factors).items() if path[-1] == "d"}
    trained = {path[:-1]: leaf for path, leaf in deviations.items()}
    kernel = trained.get(("classifier", "out", "kernel"))
    if kernel is not None:
        return f'hut_jax.Head("classification", num_labels={kernel.shape[-1]})'
    return '"mlm"' if any(path[0] == "mlm" for path in trained) else None


def _code(name: str, head: str | None, base: str | None) -> str:
    """The lines that load the adapter."""
    lines = ["import hut_jax", ""]
    if base is None:
        lines.append("params = ...  # the base's")
    elif head is None:
        lines.append(f'model, params = hut_jax.load_pretrained("{base}")')
    else:
        lines.append(f"head = {head}")
        lines.append(f'model, params = hut_jax.load_pretrained("{base}", head=head, draw=False)')
    lines.append(f'adapter, factors = hut_jax.load_adapter("{name}", params)')
    lines.append("params = adapter.merge(params, factors)  # or adapter.apply(model, params, factors, tokens)")
    return "\n".join(lines)


def _repository(name: str) -> str | None:
    """The repository on the hub that a base's name means; None if it means a folder."""
    if Path(here(name)).exists():
        return None
    try:
        repository, _ = split_revision(name)
        validate_repo_id(repository)
    except (HFValidationError, UserError):
        return None
    return repository

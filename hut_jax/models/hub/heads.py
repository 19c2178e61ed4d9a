"""Which head a checkpoint has, which one is asked for, and what of it may be drawn afresh."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from hut_jax.core.errors import UserError, nearest
from hut_jax.models.hub.families import Family
from hut_jax.models.roberta_config import default_labels

PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a caller wants of the head; None: as config.json says. See `load_pretrained`."""

    head: str | None = None
    num_labels: int | None = None
    labels: Sequence[str] | None = None
    problem_type: str | None = None


def stored_head(family: Family, values: Mapping[str, Any]) -> str | None:
    """The head that config.json's `architectures` name; None for one that is not known here.

    A family of one head has that; where there are no `architectures`, it is the bare encoder.
    """
    heads = {*family.heads.values()}
    if len(heads) == 1:
        return heads.pop()
    names = values.get("architectures") or []
    return next((family.heads[name] for name in names if name in family.heads), None if names else "none")


def with_head(family: Family, config: Any, values: Mapping[str, Any], asked: Asked, where: str) -> Any:
    """The config with the head and labels asked for.

    Args:
        family: the model's.
        config: as its `from_json` gives it.
        values: the parsed config.json.
        asked: what the caller wants.
        where: what to call config.json in an error.

    Raises:
        UserError: the family has no such head, config.json names none that is known, or labels are asked for that
            make no sense.
    """
    valid = sorted({*family.heads.values()})
    if asked.head is not None and asked.head not in valid:
        raise UserError(f"{config.model_type} has no head {asked.head!r}; {nearest(asked.head, valid)}")
    head = asked.head or stored_head(family, values)
    if head is None:
        raise UserError(
            f"{where}: of its architectures {values['architectures']} none is supported; {nearest('', family.heads)}; "
            f"or take its encoder and ask for a head: {', '.join(map(repr, valid))}"
        )
    given = [name for name in ("num_labels", "labels", "problem_type") if getattr(asked, name) is not None]
    if given and head != "classification":
        raise UserError(f"{given[0]} is for head 'classification', not for {head!r}")
    if head == "causal":
        return config
    if asked.problem_type not in (None, *PROBLEMS):
        raise UserError(f"no problem_type {asked.problem_type!r}; {nearest(asked.problem_type, PROBLEMS)}")
    return dataclasses.replace(
        config,
        head=head,
        labels=_labels(asked, config.labels),
        problem_type=asked.problem_type or config.problem_type,
    )


def drawable(path: str, config: Any, stored: Any, has: str | None) -> bool:
    """Whether a parameter that the files lack, or have in another shape, is drawn afresh and is no damage.

    Args:
        path: the parameter's.
        config: with the head asked for.
        stored: with the head and labels of config.json.
        has: the files' head.
    """
    if config.model_type not in ("roberta", "bert"):
        return False
    if config.head == "none":
        return path.startswith("pooler/")  # transformers' bare class can be saved without
    if config.head != has:
        return path.startswith(("pooler/", "classifier/", "mlm/"))
    return path.startswith("classifier/out/") and len(config.labels) != len(stored.labels)


def _labels(asked: Asked, stored: Sequence[str]) -> tuple[str, ...]:
    count = asked.num_labels
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise UserError(f"num_labels must be a whole number of at least 1, not {count!r}")
    if asked.labels is None:
        return tuple(stored) if count in (None, len(stored)) else default_labels(count)
    labels = tuple(asked.labels)
    if not labels or len(set(labels)) != len(labels) or isinstance(asked.labels, str):
        raise UserError(f"labels must be different names, at least one, not {asked.labels!r}")
    if count not in (None, len(labels)):
        raise UserError(f"num_labels is {count} and there are {len(labels)} labels; give one of the two")
    return labels

"""The head of a checkpoint, the requested head, and its parameters that may be drawn at random."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from hut_jax.core.errors import UserError, nearest
from hut_jax.models.config_json import default_labels
from hut_jax.models.hub.families import Family

PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")


@dataclasses.dataclass(frozen=True)
class Head:
    """The head of a model. A field that is None keeps the value of config.json.

    Attributes:
        name: "causal" for GPT-2; "classification", "mlm" or "none" for RoBERTa and BERT; "causal", "classification" or
            "none" for the models of `models/decoder`.
        num_labels: the number of outputs of a classification head. If it differs from config.json's, the output layer
            is drawn at random.
        labels: the names of the outputs. If only `num_labels` changes, they are LABEL_0, LABEL_1, ...
        problem_type: "regression", "single_label_classification" or "multi_label_classification", kept in the config.

    Raises:
        UserError: a field is not valid, or `labels` and `num_labels` contradict each other.
    """

    name: str | None = None
    num_labels: int | None = None
    labels: Sequence[str] | None = None
    problem_type: str | None = None

    def __post_init__(self):
        count = self.num_labels
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise UserError(f"num_labels must be a whole number of at least 1, not {count!r}")
        if self.labels is not None:
            labels = tuple(self.labels)
            if not labels or len(set(labels)) != len(labels) or isinstance(self.labels, str):
                raise UserError(f"labels must be different names, at least one, not {self.labels!r}")
            if count not in (None, len(labels)):
                raise UserError(f"num_labels is {count} and there are {len(labels)} labels; give one of the two")
            object.__setattr__(self, "labels", labels)  # so that a head can be hashed and compared
        if self.problem_type not in (None, *PROBLEMS):
            raise UserError(f"no problem_type {self.problem_type!r}; {nearest(self.problem_type, PROBLEMS)}")

    def labels_for(self, stored: Sequence[str]) -> tuple[str, ...]:
        """The names of the outputs, given the names `stored` in config.json."""
        if self.labels is not None:
            return tuple(self.labels)
        count = self.num_labels
        return tuple(stored) if count is None or count == len(stored) else default_labels(count)


def as_head(head: Head | str | None) -> Head:
    """A head by its name alone, or as it is."""
    return head if isinstance(head, Head) else Head(head)


def stored_head(family: Family, values: Mapping[str, Any]) -> str | None:
    """The head that `architectures` in config.json names; None if it is not known here.

    A family with a single head always has that head. Without `architectures` an encoder has no head, and a decoder has
    the causal one.
    """
    heads = {*family.heads.values()}
    if len(heads) == 1:
        return heads.pop()
    names = values.get("architectures") or []
    return next((family.heads[name] for name in names if name in family.heads), None if names else family.bare)


def with_head(family: Family, config: Any, values: Mapping[str, Any], head: Head, where: str) -> Any:
    """The config with the requested head and labels.

    Args:
        family: of the model.
        config: from the config class's `from_json`.
        values: the parsed config.json.
        head: the requested head.
        where: the name of config.json in an error.

    Raises:
        UserError: the family has no such head, config.json names no known head, or labels are requested for a head
            that is not a classification head.
    """
    valid = sorted({*family.heads.values()})
    if head.name is not None and head.name not in valid:
        raise UserError(f"{config.model_type} has no head {head.name!r}; {nearest(head.name, valid)}")
    name = head.name or stored_head(family, values)
    if name is None:
        raise UserError(
            f"{where}: none of its architectures {values['architectures']} is supported; {nearest('', family.heads)}; "
            f"or read its body alone, with one of the heads {', '.join(map(repr, valid))}"
        )
    given = [field for field in ("num_labels", "labels", "problem_type") if getattr(head, field) is not None]
    if given and name != "classification":
        raise UserError(f"{given[0]} is for head 'classification', not for {name!r}")
    if len(valid) == 1:
        return config
    return dataclasses.replace(
        config,
        head=name,
        labels=head.labels_for(config.labels),
        problem_type=head.problem_type or config.problem_type,
    )


def drawable(path: str, config: Any, stored: Any, has: str | None) -> bool:
    """Whether a parameter that the files lack, or have in another shape, may be drawn at random.

    If it may not, the files are damaged.

    Args:
        path: of the parameter.
        config: the config with the requested head.
        stored: the config with the head and labels of config.json.
        has: the head of the files.
    """
    if config.head == "causal":
        return False
    if config.head == "none":
        return path.startswith("pooler/")  # transformers' bare class can be saved without
    if config.head != has:
        return path.startswith(("pooler/", "classifier/", "mlm/"))
    return path.startswith("classifier/out/") and len(config.labels) != len(stored.labels)

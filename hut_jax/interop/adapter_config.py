"""The fields of PEFT's adapter_config.json, each checked. A field that is not understood is refused."""

import logging
import re
from collections.abc import Collection, Mapping
from typing import Any

from hut_jax.adapters.files import CONFIG_FILE
from hut_jax.core.errors import UserError

MERGE_THERE = "merge it in PEFT, merge_and_unload(), and load the merged model"

_log = logging.getLogger(__name__)

_LARGEST = 3e38  # in fp32; no comparison with NaN holds

# PEFT's own fields whose adapters it cannot merge, with the reason.
_NOT_MERGED = {
    "alora_invocation_tokens": "its factors act only on the tokens after an invocation, which no weights can do",
    "arrow_config": "its factors are chosen for each token, which no weights can do",
    "use_qalora": "its layers are quantised and their inputs pooled, which no weights of the base can do",
    "layer_replication": "it is for a model with some of the base's layers repeated, which is another model",
}
# PEFT's own fields whose adapters it merges.
_MERGED = {"kasa_config"}

# LoRA's initialisations that leave the base as it is, and those that change it in the same way each time.
_KEEP_THE_BASE = (True, False, "gaussian", "eva", "orthogonal", "mica")
_CHANGE_IT_AGAIN = ("pissa", "olora")

# What this library has no head for: PEFT's task, or the end of the base's class -> what it is for.
_OTHER_TASKS = {
    "TOKEN_CLS": "labels of tokens",
    "QUESTION_ANS": "answers in a text",
    "SEQ_2_SEQ_LM": "an encoder with a decoder",
}
_OTHER_CLASSES = {
    "ForTokenClassification": "labels of tokens",
    "ForQuestionAnswering": "answers in a text",
    "ForMultipleChoice": "multiple choice",
}

# Fields that change nothing once the tensors are known, or that are read for every method.
_COMMON = {
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "revision",
    "target_modules",
    "task_type",
}


class Fields:
    """The fields, each checked when it is read; null stands for the default."""

    def __init__(self, values: Mapping[str, Any]):
        self._values = values

    def only(self, known: Collection[str]) -> None:
        """Check that no other field asks for something.

        Newer versions of PEFT write all of their fields, most of them with their defaults. A number or a string that is
        not known here is taken for such a default, as PEFT itself takes it, and logged. What PEFT adds to a method is
        asked for with true, with a list or with an object.

        Raises:
            UserError: another one does.
        """
        others = {name: value for name, value in self._values.items() if name not in _COMMON | {*known} and value}
        for name, value in others.items():
            if isinstance(value, bool | list | dict):
                raise UserError(f"{name!r} is set, which this library does not support; {_advice(name)}")
        if others:
            _log.warning("%s: ignored, as PEFT ignores fields that it does not know: %s", CONFIG_FILE, _listing(others))

    def raw(self, name: str) -> Any:
        """The field as it is in the file; None if it is missing."""
        return self._values.get(name)

    def text(self, name: str) -> str | None:
        """A string, or None."""
        return self._get(name, None, lambda value: isinstance(value, str), "a string")

    def flag(self, name: str) -> bool:
        """True or false."""
        return self._get(name, False, lambda value: isinstance(value, bool), "true or false")

    def number(self, name: str, default: float) -> float:
        """A number that fits in fp32."""
        return float(self._get(name, default, _number, "a number"))

    def names(self, name: str) -> list[str]:
        """A list of strings."""
        return self._get(
            name,
            [],
            lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value),
            "a list of strings",
        )

    def one_of(self, name: str, valid: Collection[Any], default: Any, otherwise: str) -> Any:
        """One of these values. `otherwise` ends the error's message."""
        value = self._values.get(name)
        if value is not None and not any(type(value) is type(one) and value == one for one in valid):
            raise UserError(f"{name!r} is {value!r}: {otherwise}")
        return default if value is None else value

    def check_task(self) -> None:
        """Check that the adapter is not for a task whose head this library lacks, though its tensors have known names.

        Raises:
            UserError: it is.
        """
        task, mapping = self.text("task_type"), self._values.get("auto_mapping")
        base = mapping.get("base_model_class") if isinstance(mapping, dict) else None
        for name, value, others in (
            ("task_type", task, _OTHER_TASKS),
            ("base_model_class", base if isinstance(base, str) else None, _OTHER_CLASSES),
        ):
            for end, purpose in others.items():
                if value is not None and value.endswith(end):
                    raise UserError(
                        f"the adapter is for {purpose} ({name} {value!r}), and this library has no such head"
                    )

    def check_mergeable(self, tied: Mapping[str, str]) -> None:
        """Check that an adapter which PEFT would have to merge does not target an end of a tie.

        Args:
            tied: the tensors that are tied, a head's by name -> the table's.

        Raises:
            UserError: it does. PEFT's merged model would have changed the other end, too.
        """
        for name in _MERGED:
            ends = [end.removesuffix(".weight") for pair in tied.items() for end in pair]
            target = next((end for end in ends if self._targets(end)), None)
            if self._values.get(name) and target is not None:
                raise UserError(
                    f"{name!r} is set, which this library does not support, and PEFT cannot merge it on {target}, "
                    "which is tied: there is no way"
                )

    def check_initialisation(self) -> None:
        """Check that LoRA's initialisation left the base as it is.

        Raises:
            UserError: it changed the base.
        """
        value = self._values.get("init_lora_weights")
        name = value.lower() if isinstance(value, str) else value  # as in PEFT
        # PEFT changes the base again when it loads such an adapter; others depend on chance, on data or on gradients.
        # Merging would not do: where a tied end has factors, PEFT changes the other end, too.
        again = name in _CHANGE_IT_AGAIN
        changed = "PeftModel.from_pretrained(base, FOLDER)" if again else "model"
        advice = (
            f"save the changed base {'in PEFT' if again else 'where you train'}, "
            f"{changed}.unload().save_pretrained(BASE), and load the adapter on it with "
            f'"init_lora_weights": true in {CONFIG_FILE}'
        )
        fields = Fields({"init_lora_weights": name})
        fields.one_of("init_lora_weights", _KEEP_THE_BASE, True, f"this initialisation changes the base; {advice}")

    def rank(self, module: str, default: int) -> int:
        """The rank of a PEFT module, by `rank_pattern` or else `r`."""
        return self._at(module, "rank_pattern", "r", default, _whole, "a whole number of at least 1")

    def alpha(self, module: str, name: str, default: float) -> float:
        """The numerator of a module's scaling, by `alpha_pattern` or else the field `name`."""
        return float(self._at(module, "alpha_pattern", name, default, _number, "a number"))

    def of_parameter(self, module: str) -> bool:
        """Whether a module's factors are those of its parameter `weight`, which `target_parameters` names."""
        return any(f".{module}.weight".endswith(f".{one}") for one in self.names("target_parameters"))

    def _targets(self, module: str) -> bool:
        """Whether `target_modules`, a list of names or a regular expression, has a module."""
        targets = self._values.get("target_modules")
        if isinstance(targets, list):
            return any(f".{module}".endswith(f".{one}") for one in targets)
        try:
            return isinstance(targets, str) and re.fullmatch(targets, module) is not None
        except (re.error, OverflowError, RecursionError):
            return False

    def _at(self, module: str, patterns: str, name: str, default: Any, holds: Any, words: str) -> Any:
        value = self._get(name, default, holds, words)
        rules = self._get(patterns, {}, lambda rules: isinstance(rules, dict), "an object")
        matched = f"{module}.weight" if rules and self.of_parameter(module) else module
        for pattern, special in rules.items():
            if not holds(special):
                raise UserError(f"{patterns!r}: {pattern!r} must be {words}, not {special!r}")
            try:
                # As in PEFT: the pattern matches the end of the name, from the start of one of its parts.
                if re.match(rf"(.*\.)?({pattern})$", matched):
                    return special
            except (re.error, OverflowError, RecursionError) as error:
                raise UserError(f"{patterns!r}: {pattern!r} is not a regular expression: {error}") from None
        return value

    def _get(self, name: str, default: Any, holds: Any, words: str) -> Any:
        value = self._values.get(name)
        if value is None:
            return default
        if not holds(value):
            raise UserError(f"{name!r} must be {words}, not {value!r}")
        return value


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _advice(name: str) -> str:
    """What to do about a field that is not supported."""
    if name in _NOT_MERGED:
        return _NOT_MERGED[name]
    if name in _MERGED:
        return MERGE_THERE
    return f"if it changes nothing outside training, delete it from {CONFIG_FILE}"


def _listing(names: Collection[str], most: int = 8) -> str:
    shown = [repr(name[:50]) for name in names][:most]
    return ", ".join(shown) + (f" and {len(names) - most} more" if len(names) > most else "")

"""The names of tensors in PEFT's files, without what depends on how an adapter was trained and saved."""

import re
from collections.abc import Mapping
from typing import Any

from hut_jax.core.errors import UserError

PREFIX = "base_model.model."
"""The beginning of the names of PEFT's tensors."""

# What torch.compile, DDP, FSDP, checkpointing and Lightning put into the names of what they wrap.
_WRAPPERS = frozenset({"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"})
_FACTOR = r"lora_(?:embedding_)?[AB]|lora_E|lora_magnitude_vector|hira_(?:embedding_)?[AB]|hada_w[12]_[ab]|ia3_l|"
_FACTOR += r"trainable_tokens_delta"
_OF_FACTOR = re.compile(rf"(.+?\.(?:{_FACTOR}))(?:\.([^.]+?))??((?:\.weight|\.bias)?)")
_OF_MODULE = re.compile(r"(.+?\.ln_tuning_layers)(?:\.([^.]+?))??((?:\.(?:weight|bias|alpha_[pn]|beta|eps))?)")
_OF_COPY = re.compile(r"(.+?)\.modules_to_save\.([^.]+)\.(.+)")
_UNUSED = re.compile(r".+?\.(original_module|token_adapter\.trainable_tokens_original)\..+")


def plain_names(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors by names such as `transformer.h.0.attn.c_attn.lora_A.weight`.

    PEFT's own prefix goes, and whatever stands before it; so do the names of wrappers (`_orig_mod.`, `module.`) and the
    adapter's name (`lora_A.default.weight`, `modules_to_save.default.weight`), which `save_pretrained` drops and a
    `state_dict` keeps. Left out are the copies of modules from before the training, which PEFT does not compute with.

    Raises:
        UserError: the tensors are those of several adapters, or one of them is there twice.
    """
    keys: dict[str, str] = {}
    adapters: set[str] = set()
    for key in tensors:
        short = ".".join(part for part in key.split(".") if part not in _WRAPPERS)
        short = f".{short}".rpartition(f".{PREFIX}")[2].removeprefix(".")
        if _UNUSED.fullmatch(short):
            continue
        name, adapter = _without_adapter(short)
        if adapter:
            adapters.add(adapter)
        if name in keys:
            if len(adapters) > 1:
                break
            raise UserError(f"{keys[name]!r} and {key!r} are the same tensor of the model")
        keys[name] = key
    if len(adapters) > 1:
        first, *_ = several = sorted(adapters)
        raise UserError(
            f"the file holds the adapters {', '.join(map(repr, several))}; save each by itself in PEFT: "
            f"model.save_pretrained(FOLDER, selected_adapters=[{first!r}])"
        )
    return {name: tensors[key] for name, key in keys.items()}


def _without_adapter(name: str) -> tuple[str, str | None]:
    """A tensor's name without the adapter's, and the adapter's."""
    if match := _OF_COPY.fullmatch(name):
        module, adapter, leaf = match.groups()
        return f"{module}.{leaf}", adapter
    if match := _OF_MODULE.fullmatch(name) or _OF_FACTOR.fullmatch(name):
        factor, adapter, leaf = match.groups()
        # PEFT's saved magnitudes are parameters by themselves; in a model they are the weight of a module.
        return factor + ("" if factor.endswith("lora_magnitude_vector") else leaf), adapter
    return name, None

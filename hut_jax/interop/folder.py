"""The folder of an adapter that PEFT wrote: here or on the Hugging Face hub, possibly in a subfolder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hut_jax.adapters.files import CONFIG_FILE, WEIGHTS_FILE, read_description, read_tensors
from hut_jax.core.errors import UserError
from hut_jax.core.locate import locate

_CONVERT = "convert it with PEFT: PeftModel.from_pretrained(base, folder).save_pretrained(folder)"


class PeftFolder(NamedTuple):
    """An adapter's folder and the contents of its `adapter_config.json`."""

    path: Path
    values: Mapping[str, Any]

    def tensors(self) -> dict[str, np.ndarray]:
        """The tensors of `adapter_model.safetensors`.

        Raises:
            UserError: there is no such file, or it is damaged.
        """
        weights = self.path / WEIGHTS_FILE
        if not weights.is_file():
            if weights.with_suffix(".bin").is_file():
                raise UserError(
                    f"{self.path} has only adapter_model.bin, a pickle, which is never read here; {_CONVERT}"
                )
            # Pickles are not downloaded from the hub, so a pickle there does not show here.
            raise UserError(f"{self.path} has no {WEIGHTS_FILE}; if there is an adapter_model.bin alone, {_CONVERT}")
        return read_tensors(weights)


def open_folder(name: str | Path, subfolder: str | None = None) -> PeftFolder:
    """Find an adapter's folder and read its description.

    Args:
        name: a folder, or a hub name, whose two files are downloaded or taken from the cache.
        subfolder: of that folder. PEFT writes an adapter that is not called "default" to a subfolder of its name.

    Raises:
        UserError: there is no such folder, or it holds no adapter of PEFT's.
    """
    part = "" if subfolder is None else f"{subfolder}/"
    root = locate(name, (f"{part}{CONFIG_FILE}", f"{part}{WEIGHTS_FILE}"), "adapter")
    path = root / part
    if not (path / CONFIG_FILE).is_file():
        inside = sorted(file.parent.relative_to(root).as_posix() for file in root.glob(f"*/{CONFIG_FILE}"))
        raise UserError(f"no adapter in {path}: it has no {CONFIG_FILE}{_advice(root, inside)}")
    values = read_description(path)
    if "peft_type" not in values:
        ours = "transform" in values
        advice = "read an adapter of this library with load_adapter" if ours else 'for LoRA, add "peft_type": "LORA"'
        raise UserError(f"{path / CONFIG_FILE} is not PEFT's: it has no 'peft_type'; {advice}")
    return PeftFolder(path, values)


def _advice(root: Path, subfolders: list[str]) -> str:
    """Which subfolders to give instead."""
    if not subfolders:
        return ""
    listed = ", ".join(map(repr, subfolders[:8]))
    return f"; the subfolders of {root} that have one are {listed}: give subfolder={subfolders[0]!r}"

"""An adapter as a folder to keep and pass on: `adapter_config.json` and `adapter_model.safetensors`."""

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from hut_jax.adapter import Adapter
from hut_jax.errors import UserError
from hut_jax.fingerprint import fingerprint
from hut_jax.targets import flatten, unflatten
from hut_jax.transforms import make_transform

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"


def save_adapter(
    folder: str | Path,
    adapter: Adapter,
    factors: PyTree[Array],
    *,
    base_name: str | None = None,
    base_fingerprint: str | None = None,
) -> None:
    """Write the adapter to `folder`, all of it or nothing; an adapter that is there is replaced.

    Args:
        folder: made where it is missing.
        adapter: what the factors belong to.
        factors: what trained.
        base_name: the base model's name, for the reader.
        base_fingerprint: `fingerprint(params)` of the base, so that another base can be told apart.
    """
    folder = Path(folder)
    description = {
        "library": "hut_jax",
        "transform": {"name": adapter.transform.name, **dataclasses.asdict(adapter.transform)},
        "targets": adapter.targets,
        "exclude": adapter.exclude,
        "ranks": adapter.ranks,
        "layout": adapter.layout,
        "base": {"name": base_name, "fingerprint": base_fingerprint},
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        (partial / CONFIG_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        save_file({path: np.asarray(leaf) for path, leaf in flatten(factors).items()}, partial / WEIGHTS_FILE)
        (partial / WEIGHTS_FILE).chmod(0o644)  # safetensors makes its files readable for the owner alone
        folder.mkdir(exist_ok=True)
        for name in (WEIGHTS_FILE, CONFIG_FILE):
            os.replace(partial / name, folder / name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load_adapter(folder: str | Path) -> tuple[Adapter, PyTree[Array]]:
    """The adapter and its factors. Nothing is unpickled or run.

    Raises:
        UserError: the folder holds no adapter, or a file of it is damaged.
    """
    description = read_description(folder)
    path = Path(folder) / WEIGHTS_FILE
    try:
        factors = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{folder} has no {WEIGHTS_FILE}") from None
    except SafetensorError as error:
        raise UserError(f"{path} is damaged or no safetensors file: {error}") from None
    try:
        adapter = Adapter(
            make_transform(**description["transform"]),
            description["targets"],
            exclude=description["exclude"],
            ranks=description["ranks"],
            layout=description["layout"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{Path(folder) / CONFIG_FILE} describes no adapter of this library: {error}") from None
    return adapter, unflatten({path: jnp.asarray(leaf) for path, leaf in factors.items()})


def check_base(folder: str | Path, params: Mapping[str, Any], *, name: str, force: bool = False) -> None:
    """Make sure that these parameters are the base on which the adapter was trained.

    Args:
        folder: of the adapter.
        params: the base that it is to be applied to.
        name: that base's name, for the message.
        force: go on all the same.

    Raises:
        UserError: the adapter remembers another base's fingerprint.
    """
    base = read_description(folder).get("base") or {}
    wanted = base.get("fingerprint")
    if force or wanted is None or wanted == fingerprint(params):
        return
    raise UserError(
        f"the adapter in {folder} was trained on {base.get('name')!r} ({wanted[:12]}), and {name!r} has other weights "
        f"({fingerprint(params)[:12]}); force it if that is what you want"
    )


def read_description(folder: str | Path) -> dict[str, Any]:
    """The contents of `adapter_config.json`.

    Raises:
        UserError: there is none, or it is no JSON object.
    """
    path = Path(folder) / CONFIG_FILE
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no adapter in {folder}: it has no {CONFIG_FILE}") from None
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}") from None
    if not isinstance(description, dict):
        raise UserError(f"{path} holds no JSON object")
    return description


def size_on_disk(folder: str | Path) -> int:
    """Bytes of the adapter's files."""
    return sum((Path(folder) / name).stat().st_size for name in (CONFIG_FILE, WEIGHTS_FILE))

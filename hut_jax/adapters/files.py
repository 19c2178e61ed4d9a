"""An adapter's folder: `adapter_config.json` and `adapter_model.safetensors`, here or on the Hugging Face Hub."""

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from hut_jax.adapters.adapter import Adapter
from hut_jax.adapters.fingerprint import fingerprint
from hut_jax.adapters.params import opened, opened_factors
from hut_jax.core.errors import UserError, one_line
from hut_jax.core.files import read_json, replacing_all, write_tensors
from hut_jax.core.scanned_layers import stacked_as, unstack_layers
from hut_jax.core.trees import escape, flatten, split, unescape, unflatten
from hut_jax.core.version import VERSION

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_ADAPTER = "adapter"
_ESCAPED = "RFC 6901"
"""How a '/' within a name is escaped in the tensors' names. If a folder does not state it, nothing is escaped."""


def save_adapter(
    folder: str | Path,
    adapter: Adapter,
    factors: PyTree[Array],
    params: Mapping[str, Any] | None = None,
    *,
    base_name: str | None = None,
    base_fingerprint: str | None = None,
    push_to: str | None = None,
    scores: Mapping[str, float] | None = None,
    private: bool | None = None,
) -> None:
    """Write the adapter to `folder`, all of it or nothing. An existing adapter is replaced.

    Factors of stacked layers (`scan_layers`) are written layer by layer, so that they fit a model of either kind.

    Args:
        folder: made if it is missing.
        adapter: what the factors belong to.
        factors: the trained factors.
        params: the base's parameters. Without them, and without `base_fingerprint`, loading accepts any base.
        base_name: the base model's name, for the reader.
        base_fingerprint: `fingerprint(params)`, if it is known already.
        push_to: a repository of the Hugging Face Hub, `user/name`, to push the written folder to; see `push_adapter`.
        scores: with `push_to`, the scores that its card shows.
        private: with `push_to`, whether a new repository is private.

    Raises:
        UserError: the factors do not fit, or the folder could not be written or, once written, not be pushed.
    """
    if push_to is None and not (scores is None and private is None):
        raise UserError("scores= and private= are for push_to=, the repository to push to")
    if params is not None:
        adapter.check(params, factors)
        base_fingerprint = fingerprint(params)
    description = {
        "library": "hut_jax",
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "flax")} | {"hut_jax": VERSION},
        **adapter.to_dict(),
        "base": {"name": base_name, "fingerprint": base_fingerprint},
        "tensor_names": _ESCAPED,
    }
    apart = flatten(unstack_layers(unflatten(opened_factors(factors))))
    tensors = {escape(path): np.asarray(leaf) for path, leaf in apart.items()}
    write_adapter_files(folder, description, tensors, {_ADAPTER: _identity(description)})
    if push_to is not None:
        push_adapter(folder, push_to, scores=scores, private=private)


def push_adapter(
    folder: str | Path, name: str, *, scores: Mapping[str, float] | None = None, private: bool | None = None
) -> str:
    """Commit an adapter's two files to the Hugging Face Hub, with a model card. `load_adapter(name)` loads it there.

    The card says what the adapter is, its base, its scores, and how to load it. The next push replaces it, unless
    somebody has changed it and deleted the line that says so.

    Args:
        folder: a folder that `save_adapter` wrote.
        name: the repository, `user/name`, which is made if it is missing.
        scores: the scores that the card shows, by name.
        private: whether a new repository is private. Default: as the account has it.

    Returns:
        The repository's address.

    Raises:
        UserError: the folder holds no adapter of this library, the name is not that of a repository, nobody is logged
            in, the hub is out of reach, or it refuses.
    """
    from hut_jax.adapters.hub.card import head_of, write_card
    from hut_jax.adapters.hub.upload import upload  # imports what few programs need

    folder = Path(folder)
    description = read_description(folder)
    if "peft_type" in description:
        raise UserError(f"{folder} holds an adapter of Hugging Face PEFT; push it with `hf upload {name} {folder}`")
    adapter, factors = load_adapter(folder)
    trainable = sum(leaf.size for leaf in jax.tree.leaves(factors))

    def card(metadata: Mapping[str, Any]) -> str:
        return write_card(name, adapter, trainable, _base(description), head_of(factors), scores, metadata)

    card({})  # for its errors, before the hub is asked
    return upload(folder, (CONFIG_FILE, WEIGHTS_FILE), name, card, private)


def load_adapter(
    folder: str | Path, params: Mapping[str, Any] | None = None, *, name: str | None = None, force: bool = False
) -> tuple[Adapter, PyTree[Array]]:
    """Read an adapter and its factors. Nothing is unpickled or run.

    Args:
        folder: a folder that `save_adapter` wrote, or, as a `str`, the name `user/name` or `user/name@revision` of one
            on the Hugging Face Hub, whose files are downloaded or taken from the cache.
        params: the base to apply it to. If given, the fingerprint is compared, and the factors are checked against
            the parameters and stacked as the base's layers are.
        name: that base's name, for the error message.
        force: accept any base.

    Raises:
        UserError: the folder holds no adapter of this library, a file is damaged, `params` are not the base on which
            the adapter was trained, or the hub has no such adapter or is out of reach.
    """
    called, folder = folder, _found(folder)
    description = read_description(folder)
    where = folder / CONFIG_FILE
    if "peft_type" in description:
        raise UserError(f"{called} holds an adapter of Hugging Face PEFT; read it with hut_jax.load_peft")
    tensors = read_tensors(folder / WEIGHTS_FILE)
    try:
        adapter = Adapter.from_dict(description)
        read = unescape if "tensor_names" in description else split
        factors = unflatten({read(name): jnp.asarray(leaf) for name, leaf in tensors.items()})
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{where} describes no adapter of this library: {type(error).__name__}: {error}") from None
    with safe_open(folder / WEIGHTS_FILE, framework="numpy") as file:
        of = (file.metadata() or {}).get(_ADAPTER)
    if of is not None and of != _identity(description):
        raise UserError(f"{folder}: {WEIGHTS_FILE} was written for another {CONFIG_FILE}; save the adapter again")
    if params is not None:
        _check_base(called, description, params, name=name, force=force)
        factors = stacked_as(factors, unflatten(opened(params)))
        adapter.check(params, factors)
    return adapter, factors


def check_base(folder: str | Path, params: Mapping[str, Any], *, name: str | None, force: bool = False) -> None:
    """Check that these parameters are the base on which the adapter was trained.

    Args:
        folder: of the adapter; as for `load_adapter`.
        params: the base to apply it to.
        name: that base's name, for the message.
        force: accept any base.

    Raises:
        UserError: the adapter holds another base's fingerprint.
    """
    _check_base(folder, read_description(_found(folder)), params, name=name, force=force)


def _check_base(
    folder: str | Path, description: Mapping[str, Any], params: Mapping[str, Any], *, name: str | None, force: bool
) -> None:
    base = _base(description)
    wanted = base.get("fingerprint")
    if force or wanted is None:
        return
    got = fingerprint(params)
    if wanted != got:
        raise UserError(
            f"the adapter in {folder} was trained on {base.get('name')!r} ({str(wanted)[:12]}), and "
            f"{name or 'the base given'!r} has other weights, or another dtype ({got[:12]}); force it if you want that"
        )


def _base(description: Mapping[str, Any]) -> dict[str, Any]:
    """The base's name and fingerprint, as far as the description has them."""
    base = description.get("base")
    return base if isinstance(base, dict) else {}


def _found(name: str | Path) -> Path:
    """The adapter's folder. The files of a hub name are downloaded, or taken from the cache."""
    folder = Path(name)
    if isinstance(name, Path) or folder.is_dir():  # a `Path` is never a name of the hub
        return folder
    from hut_jax.core.locate import locate, split_revision  # imports what few programs need

    if split_revision(name)[0].count("/") != 1:
        return folder

    folder = locate(name, (CONFIG_FILE, WEIGHTS_FILE), "adapter")
    if not (folder / CONFIG_FILE).exists():
        raise UserError(f"no adapter in {name}: it has no {CONFIG_FILE}")
    return folder


def _identity(description: Mapping[str, Any]) -> str:
    """A hash of the adapter's fields, stored with the factors too, since the two files are replaced one by one.

    Fields that the description lacks, since they are newer than the folder, do not count.
    """
    names = [field.name for field in dataclasses.fields(Adapter)]
    text = json.dumps([description[name] for name in names if name in description], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_adapter_files(
    folder: str | Path, description: Mapping[str, Any], tensors: Mapping[str, np.ndarray], metadata: dict | None = None
) -> None:
    """Write both files of an adapter, or neither.

    Args:
        folder: made if it is missing.
        description: for `adapter_config.json`.
        tensors: for `adapter_model.safetensors`.
        metadata: for its header.

    Raises:
        UserError: it could not be written.
    """
    try:
        with replacing_all(Path(folder), [WEIGHTS_FILE, CONFIG_FILE]) as (new_weights, new_config):
            new_config.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
            write_tensors(new_weights, tensors, metadata)
    except SafetensorError as error:
        raise UserError(f"the adapter could not be written to {folder}: {one_line(error)}") from None


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file, all of them floats.

    Raises:
        UserError: there is no such file, it is damaged, or a tensor is not of floats.
    """
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path.parent} has no {path.name}") from None
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged or not a safetensors file: {one_line(error)}") from None
    for name, tensor in tensors.items():
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            raise UserError(f"{path}: {name!r} is {tensor.dtype}, and factors are floats")
    return tensors


def read_description(folder: str | Path) -> dict[str, Any]:
    """The contents of `adapter_config.json`.

    Raises:
        UserError: there is none, or it is not a JSON object.
    """
    path = Path(folder) / CONFIG_FILE
    if not path.exists():
        raise UserError(f"no adapter in {folder}: it has no {CONFIG_FILE}")
    return read_json(path)


def size_on_disk(folder: str | Path) -> int:
    """Bytes of the adapter's files."""
    return sum((Path(folder) / name).stat().st_size for name in (CONFIG_FILE, WEIGHTS_FILE))

"""The way to the Hugging Face Hub: one commit with an adapter's files and its card."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import huggingface_hub
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import validate_repo_id

from hut_jax.adapters.hub.card import is_ours, metadata_of
from hut_jax.core.errors import UserError, one_line
from hut_jax.core.locate import LOGIN, status_of
from hut_jax.core.version import VERSION

CARD = "README.md"

_log = logging.getLogger(__name__)

WriteCard = Callable[[Mapping[str, Any]], str]
"""The card's text, given the metadata of the card that is there."""


def upload(folder: Path, files: Sequence[str], name: str, card: WriteCard, private: bool | None = None) -> str:
    """Commit files of a folder and a card to a repository, which is made if it is missing.

    Args:
        folder: the files' folder.
        files: their names.
        name: the repository, `user/name`.
        card: writes the card. It is not called where somebody has changed the card that is there, which is kept.
        private: whether a new repository is private. Default: as the account has it.

    Returns:
        The repository's address.

    Raises:
        UserError: the name is not that of a repository, nobody is logged in, the hub is out of reach, or it refuses.
    """
    _check_name(name)
    failed = f"{folder} was not pushed to {name!r}"
    if huggingface_hub.get_token() is None:
        raise UserError(f"{failed}: you are not logged in to the hub; {LOGIN}")
    try:
        return _commit(folder, files, name, card, private)
    except UserError as error:
        raise UserError(f"{failed}: {error}") from None
    except (HTTPError, OSError, RuntimeError, ValueError) as error:  # no two versions raise the same
        cause = error.__cause__ if isinstance(error, RuntimeError) else None  # a RuntimeError names the file alone
        raise UserError(f"{failed}: {_reason(cause if isinstance(cause, Exception) else error)}") from error


def _check_name(name: str) -> None:
    try:
        validate_repo_id(name)
        valid = name.count("/") == 1
    except HFValidationError:
        valid = False
    if not valid:
        raise UserError(f"{name!r} is no repository of the hub; give 'user/name'")


def _commit(folder: Path, files: Sequence[str], name: str, card: WriteCard, private: bool | None) -> str:
    api = HfApi(library_name="hut_jax", library_version=VERSION)
    address = str(api.create_repo(name, private=private, exist_ok=True))
    if private and not api.repo_info(name).private:
        raise UserError("it is there and public; make it private on its page, or give another name")
    additions = [CommitOperationAdd(file, folder / file) for file in files]
    there = _card_of(api, name)
    if is_ours(there):
        additions.append(CommitOperationAdd(CARD, card(metadata_of(there)).encode()))
    else:
        _log.info("the card of %s was changed by hand and is kept", name)
    api.create_commit(name, additions, commit_message="Push an adapter of hut_jax")
    return address


def _card_of(api: HfApi, name: str) -> str:
    """The repository's card; empty if it has none."""
    with TemporaryDirectory() as folder:  # a card in the cache would look like an adapter without its files
        try:
            return Path(api.hf_hub_download(name, CARD, local_dir=folder)).read_text(encoding="utf-8", errors="replace")
        except LocalEntryNotFoundError:  # the hub is out of reach
            raise
        except EntryNotFoundError:
            return ""


def _reason(error: Exception) -> str:
    status = status_of(error)
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; unset it and push again"
    if status == 401:
        return f"the hub refuses your token; {LOGIN} to another"
    if status in (403, 404):
        return "you may not write there; give a name of your own or of your organisation, and a token that may write"
    if status is None and isinstance(error, HTTPError | OSError):
        return f"the hub cannot be reached ({one_line(error)}); push again when it can"
    return one_line(error)

"""Find the folder of the files of a model, a tokenizer or an adapter, given a folder or a Hugging Face hub name."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hut_jax.core.assets import here
from hut_jax.core.errors import UserError, nearest, one_line

LOGIN = "log in with `hf auth login`, or set HF_TOKEN"
"""The way out of what the hub does not let one do."""


class NotFound(UserError):
    """A folder or hub name that is not there, or out of reach."""


def locate(name: str | os.PathLike, patterns: Sequence[str], what: str = "model") -> Path:
    """The folder with the model's files. Files of a hub name are downloaded, or taken from the cache.

    A folder of that name takes precedence over the hub's model. `assets/tiny` is found from any directory.

    Args:
        name: a folder, or, as a `str`, a hub name such as `gpt2`, `org/name` or `org/name@revision`. The revision is a
            branch, a tag or a commit.
        patterns: the only files to download from the hub, as `fnmatch` patterns.
        what: what is looked for, for the messages.

    Raises:
        NotFound: there is no such folder or hub name, the hub does not let us read it, or the hub is out of reach and
            nothing is cached.
        UserError: the name is a file, or the download fails.
    """
    folder = Path(here(str(name)))
    if folder.is_dir():
        return folder
    refuse_gguf([folder] if folder.suffix == ".gguf" and folder.is_file() else [])
    if folder.exists():
        raise UserError(f"{name} is a file; give the folder that holds the {what}")
    repository, revision = split_revision(str(name))
    if isinstance(name, Path) or _is_path(repository):
        siblings = [p.name for p in folder.parent.iterdir() if p.is_dir()] if folder.parent.is_dir() else []
        hint = f"; {nearest(folder.name, siblings)}" if siblings else ""
        if not _is_path(repository):
            hint += f"; if that is a hub name, give it as a string, {str(name)!r}"
        raise NotFound(f"no such folder: {name}{hint}")
    try:
        return Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))
    except HFValidationError:
        raise NotFound(f"{str(name)!r} is neither a folder nor a hub name (such as 'gpt2' or 'org/name')") from None
    except GatedRepoError:
        raise NotFound(f"the owner of {str(name)!r} wants to be asked first: ask on its page, and {LOGIN}") from None
    except RevisionNotFoundError:
        raise NotFound(
            f"{repository!r} has no revision {revision!r} on the hub; give a branch, a tag or a commit"
        ) from None
    except RepositoryNotFoundError:
        raise NotFound(
            f"no folder {str(name)!r} here and no such {what} on the hub, or no right to read it; if it is private, "
            f"{LOGIN}"
        ) from None
    except LocalEntryNotFoundError:
        raise NotFound(
            f"no folder {str(name)!r} here, the hub cannot be reached and its cache has no copy: "
            "connect, or give a folder"
        ) from None
    except (HTTPError, OSError) as error:  # the first is no OSError in all versions
        if status_of(error) == 401:
            raise UserError(f"the hub refuses your token; {LOGIN} to another") from error
        raise UserError(f"downloading {str(name)!r} failed: {one_line(error)}") from error


def split_revision(name: str) -> tuple[str, str | None]:
    """A hub name and its revision, if it has one: `org/name@main` is `org/name` and `main`. A path has none.

    Raises:
        UserError: nothing follows the '@'.
    """
    repository, at, revision = name.partition("@")
    if _is_path(repository):
        return name, None
    if at and not revision:
        raise UserError(f"{name!r}: no revision after the '@'; give a branch, a tag or a commit, or leave the '@' out")
    return repository, revision or None


def status_of(error: Exception) -> int | None:
    """The HTTP status of the hub's answer that is an error; None if there was no answer."""
    response = error.response if isinstance(error, HfHubHTTPError) else None  # None in errors of huggingface_hub 0, too
    return None if response is None else response.status_code


def refuse_gguf(files: Iterable[Path]) -> None:
    """Say what to do with the first of these GGUF files, if there is one.

    Raises:
        UserError: there is one.
    """
    for file in sorted(files):
        raise UserError(
            f"{file} is a GGUF file; convert it: python -m hut_jax.models.gguf {file} --output=FOLDER, and give FOLDER"
        )


def _is_path(name: str) -> bool:
    name = name.replace(os.sep, "/")
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith("/")

"""The package's own assets, such as the quickstart's base and data, found from any directory."""

import os.path
from pathlib import Path

_NAME = "assets"
_PACKAGE = Path(__file__).resolve().parents[1]
FOLDERS = (_PACKAGE / _NAME, _PACKAGE.parent / _NAME)
"""Where the assets may lie: within the package, as a wheel has them, or beside it, as in a clone."""


def here(path: str) -> str:
    """The path with the home folder in place of `~`.

    Where there is no such path, one that begins with `assets/` is looked for among the package's own assets.
    """
    path = os.path.expanduser(path)
    first, *rest = Path(path).parts or ("",)
    if first != _NAME or os.path.exists(path):
        return path
    own = [folder.joinpath(*rest) for folder in FOLDERS]
    return next((str(found) for found in own if found.exists()), path)

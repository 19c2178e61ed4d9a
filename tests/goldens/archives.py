"""Folders of golden files as archives: many small binary files count as one.

`gpt2.zip`, `encoders.zip` and `decoders.zip` hold a folder for each golden model: a small Hugging Face checkpoint with
random weights, and `golden.safetensors`, its inputs and outputs in transformers (the make_*.py files).
"""

import os
import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE.parent.parent / ".pytest_cache" / "goldens"


def pack(folder: Path, archive: Path) -> None:
    """The files of a folder as an archive. The same files give the same archive: it holds no times."""
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            name = zipfile.ZipInfo(f"{path.relative_to(folder)}{'/' if path.is_dir() else ''}")
            file.writestr(name, b"" if path.is_dir() else path.read_bytes(), zipfile.ZIP_DEFLATED, compresslevel=9)
    print(f"{archive}: {archive.stat().st_size:,} bytes")


def unpacked(*archives: str) -> Path:
    """A folder with the contents of these archives, kept for the next time."""
    digest = 0
    for name in archives:
        digest = zlib.crc32((HERE / name).read_bytes(), digest)
    folder = CACHE / f"{digest:08x}"
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        partial = tempfile.mkdtemp(dir=CACHE)
        for name in archives:
            with zipfile.ZipFile(HERE / name) as file:
                file.extractall(partial)
        try:
            os.rename(partial, folder)
        except OSError:
            if not folder.is_dir():
                raise
            shutil.rmtree(partial)  # another process was quicker
    return folder


def golden_models() -> Path:
    """A folder with a folder for each golden model, to be read only."""
    return unpacked("gpt2.zip", "encoders.zip")


def golden_decoders() -> Path:
    """The same for decoders."""
    return unpacked("decoders.zip")

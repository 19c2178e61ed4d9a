"""transformers 4's Flax classes, in the environment of the oldest versions: later transformers have none."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

PYTHON = Path(__file__).parents[2] / ".venv-oldest" / "bin" / "python"


@pytest.fixture(scope="session")
def run_flax():
    """A function from folders with inputs.npz, and the class for each, to their outputs.npz. One process runs all."""
    if not PYTHON.exists():
        pytest.skip("no .venv-oldest, the oldest versions with transformers 4's Flax classes")

    def run(folders: dict[Path, str]) -> dict[Path, dict[str, np.ndarray]]:
        arguments = [text for folder, name in folders.items() for text in (name, folder)]
        ran = subprocess.run(
            [PYTHON, Path(__file__).with_name("run_flax.py"), *arguments],
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        return {folder: dict(np.load(folder / "outputs.npz")) for folder in folders}

    return run

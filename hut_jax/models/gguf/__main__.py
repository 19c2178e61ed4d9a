"""Turn a GGUF file into a Hugging Face folder: python -m hut_jax.models.gguf model.gguf --output=FOLDER

The folder gets config.json, model.safetensors and the tokenizer, all from the file alone.
"""

from collections.abc import Sequence

from hut_jax.core import cli
from hut_jax.models.gguf.convert import DTYPES, convert_gguf


def main(argv: Sequence[str]) -> None:
    """The command."""
    parser = cli.Parser("hut_jax.models.gguf", __doc__ or "")
    parser.add_argument("file", metavar="FILE", help="the GGUF file")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where the files go")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="of the tensors; float32, the default, rounds nothing"
    )
    parser.add_argument("--no-tokenizer", action="store_true", help="leave the tokenizer out")
    args = parser.parse_args(argv)
    made = convert_gguf(args.file, args.output, dtype=args.dtype, tokenizer=not args.no_tokenizer)
    tokens = f", {made.tokens:,} tokens" if made.tokens else ""
    print(f"{args.output}: {made.model_type}, {made.parameters:,} parameters in {args.dtype}{tokens}")


if __name__ == "__main__":
    cli.run(main)

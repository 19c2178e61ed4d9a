"""Let a run write: python -m hut_jax.generate --workdir=runs/e2e --input=mrs.txt --output=texts.txt

The input has one meaning representation a line (one beginning of a text, where the task is language modelling), and
the output one text a line. How it decodes is the run's config.decode, and can be changed: --config.decode.beams=4
"""

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from hut_jax.core import cli
from hut_jax.core.errors import UserError
from hut_jax.core.files import lines_of, write_text
from hut_jax.runs.generator import config_to_write, load_writer
from hut_jax.runs.workdir import check_writable


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = cli.Parser("hut_jax.generate", __doc__ or "")
    parser.add_argument("--workdir", required=True, metavar="FOLDER", help="of a run of hut_jax.train")
    parser.add_argument(
        "--input", required=True, metavar="FILE", help="UTF-8, one MR or one beginning of a text a line"
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="where the texts go, one a line")
    parser.add_argument("--force", action="store_true", help="write even if the base is not the one trained on")
    args, overrides = parser.parse_known_args(argv)
    config = config_to_write(Path(args.workdir), overrides)
    lines = read_lines(Path(args.input))
    output = Path(args.output)
    check_output(output)
    writer = load_writer(Path(args.workdir), config, force=args.force)
    with tqdm(total=len(lines), unit="text", dynamic_ncols=True) as bar:
        try:
            written = writer.write(lines, bar.update)
        except UserError as error:
            raise UserError(f"{args.input}: {error}") from None
    write_text(output, "".join(f"{writer.text(tokens)}\n" for tokens in written))
    print(f"{len(lines):,} texts are in {output}")
    return 0


def read_lines(path: Path) -> list[str]:
    """The lines of a text, none of them empty.

    Raises:
        UserError: it cannot be read, or has no line, or an empty one.
    """
    try:
        lines = lines_of(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error.reason} at byte {error.start})") from None
    if not lines:
        raise UserError(f"{path} is empty; it should hold one text a line")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise UserError(f"{path}, line {number} is empty: there is nothing to continue")
    return lines


def check_output(output: Path) -> None:
    """Make sure that a file can be written there.

    Raises:
        UserError: it cannot.
    """
    try:
        if output.is_dir():
            reason = "it is a folder"
        elif not output.parent.is_dir():
            reason = f"there is no folder {output.parent}"
        elif output.exists() and not output.is_file():
            reason = "it is no file"
        else:
            reason = ""
    except OSError as error:  # such as a name that is too long
        reason = str(error.strerror)
    if reason:
        raise UserError(f"--output={output} cannot be written: {reason}")
    check_writable(output.resolve().parent, "the folder of --output,")


if __name__ == "__main__":
    cli.run(main)

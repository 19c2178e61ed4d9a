"""Generate texts with a run: python -m hut_jax.generate --workdir=runs/e2e --input=mrs.txt --output=texts.txt

The input has one meaning representation on each line; for language modelling, one beginning of a text. The output has
one text on each line. The run's config.decode says how to decode. It can be changed: --config.decode.beams=4
"""

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from hut_jax.core import cli
from hut_jax.core.errors import UserError
from hut_jax.core.files import lines_of, read_text, write_text
from hut_jax.runs.decoding import Decoder
from hut_jax.runs.trained import list_changeable, load_run, read_trained_config, task_that
from hut_jax.runs.workdir import check_writable
from hut_jax.tasks import GeneratesText


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = cli.Parser("hut_jax.generate", __doc__ or "")
    parser.add_argument("--workdir", required=True, metavar="FOLDER", help="the folder of a run of hut_jax.train")
    parser.add_argument(
        "--input", required=True, metavar="FILE", help="a UTF-8 file, one MR or beginning of a text on each line"
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="the file for the texts, one on each line")
    parser.add_argument("--force", action="store_true", help="generate even if the base is not the one trained on")
    parser.epilog = list_changeable()
    args, overrides = parser.parse_known_args(argv)

    workdir, output = Path(args.workdir), Path(args.output)
    config = read_trained_config(workdir, overrides)
    task = task_that(GeneratesText, workdir, config)
    lines = read_lines(Path(args.input))
    check_output(output)
    decoder = Decoder(load_run(workdir, config, scan_layers=False, force=args.force), task)
    for note in decoder.notes:
        print(f"note: {note}")
    with tqdm(total=len(lines), unit="text", dynamic_ncols=True) as bar:
        try:
            generated = decoder.generate(lines, bar.update)
        except UserError as error:
            raise UserError(f"{args.input}: {error}") from None
    write_text(output, "".join(f"{decoder.text(tokens)}\n" for tokens in generated))
    print(f"{len(lines):,} texts are in {output}")
    return 0


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, none of them empty.

    Raises:
        UserError: the file cannot be read, has no lines, or has an empty line.
    """
    lines = lines_of(read_text(path, encoding="utf-8-sig"))
    if not lines:
        raise UserError(f"{path} is empty; it should hold one text a line")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise UserError(f"{path}, line {number} is empty: there is nothing to continue")
    return lines


def check_output(output: Path) -> None:
    """Check that this file can be written.

    Raises:
        UserError: it cannot be written.
    """
    try:
        if output.is_dir():
            reason = "it is a folder"
        elif not output.parent.is_dir():
            reason = f"there is no folder {output.parent}"
        elif output.exists() and not output.is_file():
            reason = "it is not a regular file"
        else:
            reason = ""
    except OSError as error:  # such as a name that is too long
        reason = str(error.strerror)
    if reason:
        raise UserError(f"--output={output} cannot be written: {reason}")
    check_writable(output.resolve().parent, "the folder of --output,")


if __name__ == "__main__":
    cli.run(main)

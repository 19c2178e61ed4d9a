"""Generate texts with a run: python -m hut_jax.generate --workdir=runs/e2e --input=mrs.txt --output=texts.txt

The input has one meaning representation on each line; for language modelling, one beginning of a text. The output has
one text on each line. The run's config.decode says how to decode. It can be changed: --config.decode.beams=4
"""

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from hut_jax.core import cli
from hut_jax.core.errors import UserError
from hut_jax.core.files import write_text
from hut_jax.runs.decoding import Decoder
from hut_jax.runs.text_files import check_output, read_lines
from hut_jax.runs.trained import load_run, parse_with_run, run_parser, task_that
from hut_jax.tasks import GeneratesText


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = run_parser("hut_jax.generate", __doc__ or "", verb="generate", decodes=True)
    parser.add_argument(
        "--input", type=Path, required=True, metavar="FILE", help="a UTF-8 file, one MR or beginning of a text a line"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="the file for the texts, one on each line"
    )
    args, config = parse_with_run(parser, argv)

    task = task_that(GeneratesText, args.workdir, config)
    lines = read_lines(args.input)
    check_output(args.output)
    decoder = Decoder(load_run(args.workdir, config, scan_layers=False, force=args.force), task)
    for note in decoder.notes:
        print(f"note: {note}")
    with tqdm(total=len(lines), unit="text", dynamic_ncols=True) as bar:
        try:
            generated = decoder.generate(lines, bar.update)
        except UserError as error:
            raise UserError(f"{args.input}: {error}") from None
    write_text(args.output, "".join(f"{decoder.text(tokens)}\n" for tokens in generated))
    print(f"{len(lines):,} texts are in {args.output}")
    return 0


script = cli.script(main)

if __name__ == "__main__":
    script()

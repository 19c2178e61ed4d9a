"""Generate texts with a run: python -m hut_jax.generate --workdir=runs/e2e --input=mrs.txt --output=texts.txt

The input has one meaning representation on each line; for language modelling, one beginning of a text. The output has
one text on each line. The run's config.decode says how to decode. It can be changed: --config.decode.beams=4

--prompt=TEXT prints a text. Texts are continued as they are. With --chat each is the message of a user, by the
tokenizer's chat template. --chat alone is a conversation: one message a line, until the input ends.
"""

import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from hut_jax.core import cli
from hut_jax.core.errors import UserError
from hut_jax.core.files import write_text
from hut_jax.runs.decoding import Decoder
from hut_jax.runs.text_files import check_output, read_lines
from hut_jax.runs.trained import load_run, parse_with_run, run_parser, task_that
from hut_jax.tasks import GeneratesText
from hut_jax.tasks.chat import Chat, Messages


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = run_parser("hut_jax.generate", __doc__ or "", verb="generate", decodes=True)
    parser.add_argument(
        "--input", type=Path, metavar="FILE", help="a UTF-8 file, one MR, message or beginning of a text a line"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="the file for the texts, one on each line")
    parser.add_argument(
        "--prompt", action="append", metavar="TEXT", help="in place of the files; the text is printed. May be repeated"
    )
    parser.add_argument(
        "--chat",
        action="store_true",
        help="take each text as the message of a user, by the chat template, whatever the run's task",
    )
    args, config = parse_with_run(parser, argv)

    task = task_that(GeneratesText, args.workdir, config)
    if args.chat:
        task = Messages()
    if (args.input is None) != (args.output is None) or not (args.input or args.prompt or args.chat):
        raise UserError("give --input and --output, or --prompt, or --chat alone to write the messages here")
    if sys.stdin is None and not (args.input or args.prompt):
        raise UserError("standard input is closed, from which --chat alone reads messages; give --prompt or --input")
    if args.input and args.prompt:
        raise UserError("give --input and --output, or --prompt, not both")
    for text in args.prompt or ():
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise UserError(f"--prompt={text!r} is not UTF-8")
    lines = read_lines(args.input) if args.input else args.prompt
    if args.output:
        check_output(args.output)
    run = load_run(args.workdir, config, scan_layers=False, force=args.force)
    if args.chat:
        Messages().prompts(["Hello"], run.tokenizer)  # for its error
    decoder, notes = Decoder(run, task), []
    if type(task) is Chat and run.tokenizer.chat_template:
        notes = ["each text is continued as it is; --chat makes it the message of a user, by the chat template"]
    for note in [*decoder.notes, *notes]:
        print(f"note: {note}", file=sys.stderr)
    if lines is None:
        converse(decoder)
    elif args.input:
        write_texts(decoder, lines, args.input, args.output)
    else:
        for tokens in decoder.generate(lines):
            print(decoder.text(tokens, one_line=False))
    return 0


def write_texts(decoder: Decoder, lines: Sequence[str], source: Path, output: Path) -> None:
    """Write the text of each line of a file to another file.

    Raises:
        UserError: a line cannot be continued, or the file cannot be written.
    """
    with tqdm(total=len(lines), unit="text", dynamic_ncols=True) as bar:
        try:
            generated = decoder.generate(lines, bar.update)
        except UserError as error:
            raise UserError(f"{source}: {error}") from None
    write_text(output, "".join(f"{decoder.text(tokens)}\n" for tokens in generated))
    print(f"{len(lines):,} texts are in {output}")


def converse(decoder: Decoder) -> None:
    """Answer each message from standard input. The model reads the whole conversation each time.

    Raises:
        UserError: the conversation has become too long, or the chat template refuses it.
    """
    messages: list[dict[str, str]] = []
    for said in _messages():
        messages.append({"role": "user", "content": said})
        answer = decoder.answer(messages)
        messages.append({"role": "assistant", "content": answer})
        print(answer, flush=True)


def _messages() -> Iterator[str]:
    """The lines of standard input that are not blank, each asked for where someone types them."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    sign = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            said = input(sign).strip()
        except EOFError:
            print(end="\n" if sign else "")  # after the sign
            return
        if said:
            yield said


script = cli.script(main)

if __name__ == "__main__":
    script()

"""The scores of a base on E2E's test set before any training.

    python -m experiments.zero_shot --config=e2e:smollm2 --config.data.dir=E2E --output=runs/zero_shot

A base may have read the data. Its scores without an adapter belong beside those of every run on it. It is asked twice:
`as_trained` is the prompt of training, a meaning representation and the end token, and `asked` is a question in the
form of the tokenizer's chat template, for bases that follow instructions. The texts are written to
`as_trained.txt` and `asked.txt`, for `experiments.slots`, and the scores to `scores.json`.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
from tqdm import tqdm

from hut_jax.config import with_fields
from hut_jax.core import cli
from hut_jax.core.errors import UserError
from hut_jax.core.files import write_json, write_text
from hut_jax.data.tokenizer import Tokenizer
from hut_jax.runs.config_files import parse_with_config
from hut_jax.runs.decoding import Decoder
from hut_jax.runs.run import make_run, parts
from hut_jax.runs.trained import TrainedRun
from hut_jax.runs.workdir import check_writable
from hut_jax.tasks.e2e import E2E

QUESTION = "Describe this place in one or two sentences. Say every fact that is given, and no other.\n\n{}"


class Asked(E2E):
    """E2E in the words of a user who asks an assistant."""

    def prompts(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
        """A question for each meaning representation, up to where the answer begins."""
        asked = [[{"role": "user", "content": QUESTION.format(text)}] for text in texts]
        whole = tokenizer.auto.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        return tokenizer.encode_batch(whole)


def main(argv: Sequence[str]) -> None:
    """The command; prints the scores."""
    parser = cli.Parser("experiments.zero_shot", __doc__ or "")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where texts and scores go")
    args, config = parse_with_config(parser, argv)
    run = make_run(with_fields(config, {"train.scan_layers": False, "train.attention": "xla"}))
    if not isinstance(run.task, E2E):
        raise UserError(f"config.task is {config.task!r}; this is for 'e2e'")
    ways = {"as_trained": run.task} | ({"asked": Asked()} if run.tokenizer.auto.chat_template else {})
    found = run.task.load_references(config.data)
    check_writable(args.output, "the folder --output")
    args.output.mkdir(parents=True, exist_ok=True)
    params = run.load_base()
    factors = run.adapter.init(jax.random.key(0), params)  # the identity
    base = TrainedRun(**parts(run), params=params, factors=factors)
    scores = {}
    for name, task in ways.items():
        decoder = Decoder(replace(base, task=task), task)
        with tqdm(total=len(found), unit="text", dynamic_ncols=True) as bar:
            texts = [decoder.text(tokens) for tokens in decoder.generate(list(found), bar.update)]
        write_text(args.output / f"{name}.txt", "".join(f"{text}\n" for text in texts))
        scores[name] = task.score_texts(texts, list(found.values())).scores()
        print(name, "  ".join(f"{metric} {value or 0:.4f}" for metric, value in scores[name].items()), flush=True)
    write_json(args.output / "scores.json", scores)


if __name__ == "__main__":
    cli.run(main)

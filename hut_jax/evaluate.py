"""Generate texts for a run's test set and score them: python -m hut_jax.evaluate --workdir=runs/e2e

The workdir then also holds `test_outputs.txt`, one text for each meaning representation of E2E's test set, and
`evaluation.json`: the challenge's five scores, the decoding options, times and versions. The evaluation is also in
`result.json`, as `test`. The default is the beam search of the LoRA paper (arXiv 2106.09685). Every option can be
changed: --config.decode.length_penalty=0.8
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hut_jax.adapters.files import WEIGHTS_FILE
from hut_jax.config import RunConfig
from hut_jax.core import cli
from hut_jax.core.files import write_json, write_text
from hut_jax.core.version import VERSION
from hut_jax.metrics.bootstrap import LEVEL, interval
from hut_jax.runs.decoding import Decoder
from hut_jax.runs.machine import describe_machine
from hut_jax.runs.result import RESULT, read_result
from hut_jax.runs.trained import load_run, parse_with_run, run_parser, task_that
from hut_jax.runs.workdir import ADAPTER, check_writable
from hut_jax.tasks import ScoresTexts

OUTPUTS = "test_outputs.txt"
EVALUATION = "evaluation.json"

_RESAMPLES = 1000  # of the bootstrap

References = Mapping[str, Sequence[str]]
"""The texts to continue, each with its references."""


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = run_parser("hut_jax.evaluate", __doc__ or "", verb="evaluate", decodes=True)
    parser.add_argument("--again", action="store_true", help="decode even if the texts are there already")
    args, config = parse_with_run(parser, argv)

    workdir = args.workdir
    task = task_that(ScoresTexts, workdir, config)
    references = task.load_references(config.data)
    source = source_of(workdir, config, references, force=args.force)
    read_result(workdir)  # for its errors, before the long work

    evaluation = None if args.again else read_evaluation(workdir, source)
    if evaluation is None:
        evaluation = evaluate(workdir, config, task, references, source, force=args.force)
    else:
        print(f"{workdir} was decoded before with the same options, adapter and test set; --again decodes it anew")
        if evaluation["reasons"] and task.can_score_fully():
            evaluation |= score(task, read_outputs(workdir), references)
            write_json(workdir / EVALUATION, evaluation)
    result = read_result(workdir)
    if result is not None and result.get("test") != evaluation:
        write_json(workdir / RESULT, result | {"test": evaluation})
    print(describe(evaluation, workdir))
    return 0


def evaluate(
    workdir: Path,
    config: RunConfig,
    task: ScoresTexts,
    references: References,
    source: Mapping[str, Any],
    *,
    force: bool,
) -> dict[str, Any]:
    """Generate the texts, score them, write texts and scores, and return the evaluation.

    Raises:
        UserError: a part of the run cannot be loaded, a text to continue is too long, or the workdir cannot be written.
    """
    check_writable(workdir)
    decoder = Decoder(load_run(workdir, config, scan_layers=False, force=force), task)
    for note in decoder.notes:
        print(f"note: {note}")
    start = time.perf_counter()
    with tqdm(total=len(references), unit="text", dynamic_ncols=True) as bar:
        generated = decoder.generate(list(references), bar.update)
    seconds = time.perf_counter() - start
    outputs = [decoder.text(tokens) for tokens in generated]

    # The outputs are written first, so that a failure in scoring does not lose them. The evaluation has their digest.
    written = "".join(f"{output}\n" for output in outputs)
    write_text(workdir / OUTPUTS, written)
    evaluation = score(task, outputs, references) | {
        "outputs": len(generated),
        "cut_off": sum(len(tokens) >= config.decode.max_new_tokens for tokens in generated),
        "decode": asdict(config.decode),
        "decode_seconds": round(seconds, 3),
        **describe_machine("jax", "jaxlib", "flax", "numpy"),
        "source": source,
        "outputs_sha256": _digest(written.encode()),
    }
    write_json(workdir / EVALUATION, evaluation)
    return evaluation


def score(task: ScoresTexts, outputs: Sequence[str], references: References) -> dict[str, Any]:
    """The scores of the outputs with their bootstrap intervals, and the reasons why some are missing."""
    scored = task.score_texts(outputs, list(references.values()))
    return {
        "scores": scored.scores(),
        "intervals": {
            name: list(interval(statistics, _RESAMPLES, seed=0)) for name, statistics in scored.statistics.items()
        },
        "level": LEVEL,
        "reasons": dict(scored.reasons),
        "tokenizer": scored.tokenizer,
    }


def source_of(workdir: Path, config: RunConfig, references: References, *, force: bool) -> dict[str, Any]:
    """Everything that determines the outputs and the scores."""
    source = {
        "adapter": _digest((workdir / ADAPTER / WEIGHTS_FILE).read_bytes()),
        "test_set": _digest(json.dumps(list(references.items())).encode()),
        "model": config.model,
        "tokenizer": config.tokenizer,
        "dtype": config.dtype,
        "seed": config.seed,
        "decode": asdict(config.decode),
        "version": VERSION,
    }
    return source | {"forced": True} if force else source  # maybe of another base, which is refused without --force


def read_evaluation(workdir: Path, source: Mapping[str, Any]) -> dict[str, Any] | None:
    """The evaluation in the workdir if it has the same source, else None."""
    try:
        evaluation = json.loads((workdir / EVALUATION).read_text(encoding="utf-8"))
        same = evaluation["outputs_sha256"] == _digest((workdir / OUTPUTS).read_bytes())
        return evaluation if same and evaluation["source"] == source else None
    except (OSError, KeyError, TypeError, ValueError):
        return None


def read_outputs(workdir: Path) -> list[str]:
    """The outputs in the workdir, one a line."""
    return (workdir / OUTPUTS).read_text(encoding="utf-8").split("\n")[:-1]


def describe(evaluation: Mapping[str, Any], workdir: Path) -> str:
    """The scores with their intervals, and where to find everything."""
    lines = []
    for name, value in evaluation["scores"].items():
        if value is None:
            lines.append(f"{name:<8}none: {evaluation['reasons'][name]}")
        else:
            low, high = evaluation["intervals"][name]
            lines.append(f"{name:<8}{value:.4f}  {evaluation['level']:.0%} {low:.4f} to {high:.4f}")
    cut = f", {evaluation['cut_off']} of them cut off" if evaluation["cut_off"] else ""
    lines.append(f"{evaluation['outputs']} outputs{cut}, in {workdir / OUTPUTS}; all figures in {workdir / EVALUATION}")
    return "\n".join(lines)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


script = cli.script(main)

if __name__ == "__main__":
    script()

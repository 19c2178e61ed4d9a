"""Decode E2E's test set with a run and score what it wrote: python -m hut_jax.evaluate --workdir=runs/e2e

The workdir then also holds `test_outputs.txt`, one text for each meaning representation of the test set, and
`evaluation.json`: the challenge's five scores, how it was decoded, times, versions. `result.json` gets it as `test`.
Beam search is as in the LoRA paper (arXiv 2106.09685), and can be changed: --config.decode.length_penalty=0.8
"""

import hashlib
import importlib.metadata
import json
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from tqdm import tqdm

import hut_jax
from hut_jax.adapters.files import WEIGHTS_FILE
from hut_jax.core import cli
from hut_jax.core.errors import UserError
from hut_jax.core.files import write_json, write_text
from hut_jax.data.e2e.dataset import load_e2e, references
from hut_jax.metrics.bootstrap import LEVEL, interval
from hut_jax.metrics.e2e import java
from hut_jax.metrics.e2e.score import evaluate as score
from hut_jax.runs.generator import config_to_write, load_writer
from hut_jax.runs.machine import device_name
from hut_jax.runs.workdir import ADAPTER, RESULT, check_writable

OUTPUTS = "test_outputs.txt"
EVALUATION = "evaluation.json"

_RESAMPLES = 1000  # of the bootstrap


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = cli.Parser("hut_jax.evaluate", __doc__ or "")
    parser.add_argument("--workdir", required=True, metavar="FOLDER", help="of a run of hut_jax.train")
    parser.add_argument("--force", action="store_true", help="evaluate even if the base is not the one trained on")
    parser.add_argument("--again", action="store_true", help="decode even if it is done already")
    args, overrides = parser.parse_known_args(argv)
    workdir = Path(args.workdir)
    config = config_to_write(workdir, overrides)
    if config.task != "e2e":
        raise UserError(f"the run in {workdir} is of the task {config.task!r}; only 'e2e' has a test set to write for")
    texts = references(load_e2e(config.data.dir, cache_dir=config.data.cache, splits=["test"])["test"])
    source = _source(workdir, config, texts)
    _read_result(workdir)  # for its errors, before the long work
    evaluation = None if args.again else _done(workdir, source)
    if evaluation is None:
        check_writable(workdir)
        outputs, how = decode(workdir, config, texts, force=args.force)
        text = "".join(f"{output}\n" for output in outputs)
        # Before they are scored, so that they are there whatever happens; the figures name the outputs they are of.
        write_text(workdir / OUTPUTS, text)
        evaluation = _scores(outputs, texts) | how | {"source": source, "outputs_sha256": _digest(text.encode())}
        write_json(workdir / EVALUATION, evaluation)
    else:
        print(f"decoded before, with the same options, adapter and test set; --again decodes it anew ({workdir})")
        if evaluation["reasons"] and java.is_there():
            scores = _scores((workdir / OUTPUTS).read_text(encoding="utf-8").split("\n")[:-1], texts)
            if not scores["reasons"]:
                evaluation |= scores
                write_json(workdir / EVALUATION, evaluation)
    result = _read_result(workdir)
    if result is not None and result.get("test") != evaluation:
        write_json(workdir / RESULT, result | {"test": evaluation})
    print(_report(evaluation, workdir))
    return 0


def decode(
    workdir: Path, config: ConfigDict, texts: Mapping[str, Sequence[str]], *, force: bool = False
) -> tuple[list[str], dict[str, Any]]:
    """Let the run write a text for every MR.

    Args:
        workdir: of the run.
        config: from `config_to_write`.
        texts: the references of each MR.
        force: go on even if the base is not the one that the adapter was trained on.

    Returns:
        The texts, in the MRs' order, and how they came about.

    Raises:
        UserError: a part of the run cannot be had, or an MR is too long.
    """
    writer = load_writer(workdir, config, force=force)
    start = time.perf_counter()
    with tqdm(total=len(texts), unit="text", dynamic_ncols=True) as bar:
        written = writer.write(list(texts), bar.update)
    seconds = time.perf_counter() - start
    return [writer.text(tokens) for tokens in written], {
        "outputs": len(written),
        "cut_off": sum(len(tokens) >= config.decode.max_new_tokens for tokens in written),
        "decode": config.decode.to_dict(),
        "decode_seconds": round(seconds, 3),
        "device": device_name(),
        "platform": platform.platform(),
        "versions": {"hut_jax": hut_jax.__version__, "python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "numpy")},
    }


def _scores(outputs: Sequence[str], texts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    scored = score(outputs, list(texts.values()))
    return {
        "scores": scored.scores(),
        "intervals": {
            name: list(interval(statistics, _RESAMPLES, seed=0)) for name, statistics in scored.statistics.items()
        },
        "level": LEVEL,
        "reasons": dict(scored.reasons),
        "tokenizer": scored.tokenizer,
    }


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _source(workdir: Path, config: ConfigDict, texts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """All that the outputs and scores follow from."""
    weights = (workdir / ADAPTER / WEIGHTS_FILE).read_bytes()
    return {
        "adapter": _digest(weights),
        "test_set": _digest(json.dumps(list(texts.items())).encode()),
        "model": config.model,
        "tokenizer": config.tokenizer,
        "dtype": config.dtype,
        "seed": config.seed,
        "decode": config.decode.to_dict(),
        "version": hut_jax.__version__,
    }


def _done(workdir: Path, source: Mapping[str, Any]) -> dict[str, Any] | None:
    """The evaluation that is there already, if it is of the same source."""
    try:
        evaluation = json.loads((workdir / EVALUATION).read_text(encoding="utf-8"))
        same = evaluation["outputs_sha256"] == _digest((workdir / OUTPUTS).read_bytes())
        return evaluation if same and evaluation["source"] == source else None
    except (OSError, KeyError, TypeError, ValueError):
        return None


def _read_result(workdir: Path) -> dict[str, Any] | None:
    """The run's `result.json`; a run that has not ended has none yet."""
    path = workdir / RESULT
    if not path.exists():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}; the run's training command writes it anew") from None


def _report(evaluation: Mapping[str, Any], workdir: Path) -> str:
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


if __name__ == "__main__":
    cli.run(main)

"""The E2E NLG data: records of a meaning representation and a text, prepared by TFDS, and their tokens."""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from hut_jax.core.errors import UserError, one_line
from hut_jax.data.batching import evenly_spread
from hut_jax.data.e2e.csv_files import FILES, Record, find_files, read_records
from hut_jax.data.sequences import Sequences
from hut_jax.data.tfds import check_reachable, quiet, read_rows
from hut_jax.data.tokenizer import Tokenizer


class EncodedE2E(NamedTuple):
    """Examples as tokens, and the number of them that were cut to `max_length`."""

    sequences: Sequences
    truncated: int


def load_e2e(
    data_dir: str | os.PathLike[str] | None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    splits: Iterable[str] = FILES,
    most: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, list[Record]]:
    """The splits `train`, `validation` and `test`, or some of them, each in the order of its file.

    TFDS prepares a folder's files once, and again if their contents change.

    Args:
        data_dir: a folder with `trainset.csv`, `devset.csv` and `testset_w_refs.csv`, each with columns `mr` and `ref`.
            None or empty: the official files are downloaded.
        cache_dir: the folder of the prepared data; None or empty: TFDS' own folder (`TFDS_DATA_DIR`, or else
            `~/tensorflow_datasets`).
        splits: the splits to read.
        most: the most records of a split to read, evenly spread over it; 0 or no entry: all.

    Raises:
        UserError: a file is missing or malformed, the download fails, or the cache cannot be written or read. Files
            are checked before anything is prepared.
    """
    paths = find_files(data_dir) if data_dir else None
    name = f"csv-{_fingerprint(paths)}" if paths else "official"

    # TFDS takes a third of a second to import.
    import tensorflow_datasets as tfds

    from hut_jax.data.e2e.e2e_nlg.e2e_nlg_dataset_builder import Builder, E2EConfig

    cache = Path(cache_dir or tfds.core.constants.DATA_DIR).expanduser()
    try:
        with quiet():
            config = E2EConfig(name=name, folder=os.fspath(data_dir)) if data_dir else name
            settings = {"data_dir": os.fspath(cache), "config": config, "file_format": "array_record"}
            builder = Builder(**settings)
            if not builder.is_prepared():
                for path in (paths or {}).values():
                    read_records(path)
                _prepare(builder, cache)
                builder = Builder(**settings)  # finds what was prepared, by this process or another
    except OSError as error:
        raise UserError(f"cannot use the cache {cache} ({one_line(error)}); set config.data.cache") from error
    return {split: _read_split(builder, split, most.get(split, 0)) for split in splits}


def references(records: Sequence[Record]) -> dict[str, list[str]]:
    """The texts of each meaning representation. Meaning representations are in the order of first occurrence."""
    grouped: dict[str, list[str]] = {}
    for record in records:
        grouped.setdefault(record.mr, []).append(record.ref)
    return grouped


def encode_prompts(mrs: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """The prompts that the model completes: BPE(MR), then `<|endoftext|>`."""
    return [[*ids, tokenizer.eos_id] for ids in tokenizer.encode_batch(mrs)]


def encode_e2e(records: Sequence[Record], tokenizer: Tokenizer, max_length: int) -> EncodedE2E:
    """Each record as BPE(MR), `<|endoftext|>`, BPE(" " + text), `<|endoftext|>`.

    The tokens after the first `<|endoftext|>` are predicted. A sequence of more than `max_length` tokens is cut.
    It then has no final `<|endoftext|>`, so that the model does not learn to stop in mid-sentence. `truncated` counts
    such sequences.

    Raises:
        UserError: there is no record, or `max_length` leaves one without a token of its text.
    """
    if not records:
        raise UserError("there are no E2E records to encode")
    unique = list(dict.fromkeys(record.mr for record in records))
    prompts = dict(zip(unique, encode_prompts(unique, tokenizer), strict=True))
    texts = tokenizer.encode_batch([" " + record.ref for record in records])
    sequences, loss_start, truncated = [], [], 0
    for number, (record, text) in enumerate(zip(records, texts, strict=True), start=1):
        prompt = prompts[record.mr]
        if len(prompt) >= max_length:
            raise UserError(
                f"max_length is {max_length}, but the meaning representation of record {number} takes {len(prompt)} "
                f"tokens; it should be at least {len(prompt) + 1}"
            )
        sequence = [*prompt, *text, tokenizer.eos_id]
        truncated += len(sequence) > max_length
        sequences.append(sequence[:max_length])
        loss_start.append(len(prompt))
    return EncodedE2E(Sequences.from_lists(sequences, loss_start), truncated)


def _fingerprint(paths: Mapping[str, Path]) -> str:
    digest = hashlib.sha256()
    for path in paths.values():
        try:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()[:16]


def _prepare(builder: Any, cache: Path) -> None:
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
    from tensorflow_datasets.core.download.util import DownloadError

    from hut_jax.data.e2e.e2e_nlg.e2e_nlg_dataset_builder import URL

    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=cache):
        pass  # fails before TFDS starts if the cache cannot be written
    try:
        if builder.builder_config.folder is None:
            check_reachable(f"{URL}{FILES['train']}")
        builder.download_and_prepare()
    except (OSError, DownloadError, NonMatchingChecksumError) as error:
        if builder.is_prepared():
            return  # another process prepared it at the same time
        if builder.builder_config.folder is not None:
            raise
        raise UserError(
            f"cannot download E2E ({one_line(error)}); give a folder holding {', '.join(FILES.values())} instead"
        ) from error


def _read_split(builder: Any, split: str, most: int) -> list[Record]:
    wanted = evenly_spread(builder.info.splits[split].num_examples, most)
    return [Record(row["mr"].decode(), row["ref"].decode()) for row in read_rows(builder, split, wanted.tolist())]

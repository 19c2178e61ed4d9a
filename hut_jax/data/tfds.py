"""Helpers for readers of TFDS datasets: silence, a quick check of the network, and the rows of a split."""

import contextlib
import io
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

from absl import logging

from hut_jax.core.errors import UserError, one_line


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence TFDS: its progress bars, advice and notices. Errors are still raised."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)


def check_reachable(url: str) -> None:
    """Check that a host answers, within seconds. Without a network TFDS itself would try for minutes.

    Raises:
        OSError: the host does not answer.
    """
    try:
        urllib.request.urlopen(url, timeout=20).close()
    except urllib.error.HTTPError as error:
        error.close()  # the host answers; TFDS will report what is wrong


def read_rows(builder: Any, split: str, rows: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """Rows of a split that a TFDS builder has prepared.

    Args:
        builder: the builder.
        split: its name.
        rows: their numbers; None: all.

    Raises:
        UserError: the prepared files cannot be read.
    """
    try:
        source = builder.as_data_source(split=split)
        return source.__getitems__(range(len(source)) if rows is None else rows)  # many times faster than one by one
    except Exception as error:  # TFDS and array_record raise many kinds of errors for a damaged file
        raise UserError(
            f"the prepared {split} split in {builder.data_dir} cannot be read ({one_line(error)}); "
            "delete that folder to prepare it again"
        ) from error

"""TFDS without its words: progress bars, advice and notices of what it does."""

import contextlib
import io
from collections.abc import Iterator

from absl import logging


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No word from TFDS, which says much about what is no news here. Errors still rise."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)

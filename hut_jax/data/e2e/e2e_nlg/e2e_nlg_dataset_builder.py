"""The E2E NLG dataset as a TFDS builder, from CSV files in a folder or from a download."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets.public_api as tfds

from hut_jax.data.e2e.csv_files import FILES, find_files, read_records

URL = "https://raw.githubusercontent.com/tuetschek/e2e-dataset/master/"


@dataclasses.dataclass(eq=False)
class E2EConfig(tfds.core.BuilderConfig):
    """The files: those in `folder`, or the public download if it is None."""

    folder: str | None = None


class Builder(tfds.core.GeneratorBasedBuilder):
    """Meaning representations of restaurants and texts that express them, one example for each row, in order."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "The files of the E2E NLG Challenge."}
    BUILDER_CONFIGS: ClassVar[list[E2EConfig]] = [
        E2EConfig(name="official", description="The files of the E2E NLG Challenge, downloaded.")
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {"mr": tfds.features.Text(), "ref": tfds.features.Text(), "index": np.int32}
            ),
            supervised_keys=("mr", "ref"),
            homepage="https://github.com/tuetschek/e2e-dataset",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[Any]]:
        folder = self.builder_config.folder
        if folder is None:
            paths = dl_manager.download({split: URL + name for split, name in FILES.items()})
        else:
            paths = find_files(folder)
        return {split: self._generate_examples(path) for split, path in paths.items()}

    def _generate_examples(self, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, record in enumerate(read_records(path)):
            yield index, {"mr": record.mr, "ref": record.ref, "index": index}

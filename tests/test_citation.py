"""CITATION.cff says what it cites, in the form that forges read."""

from pathlib import Path

import yaml

from hut_jax.core.version import VERSION

CITATION = yaml.safe_load((Path(__file__).parent.parent / "CITATION.cff").read_text())


def test_the_code_and_the_paper_are_cited():
    assert (CITATION["cff-version"], CITATION["type"], CITATION["license"]) == ("1.2.0", "software", "Apache-2.0")
    assert {"message", "title", "authors"} <= CITATION.keys()
    assert CITATION["authors"] == [{"name": "The hut_jax authors"}]
    (paper,) = CITATION["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Zhang", "Zhou", "Chen"]
    assert (paper["year"], paper["url"]) == (2024, "https://arxiv.org/abs/2409.13501")


def test_the_version_is_that_of_the_code():
    assert CITATION["version"] == VERSION

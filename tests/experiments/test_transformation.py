"""README's picture of the transformation."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from experiments.transformation import ENTRY, RANK, D, K, color_of, main

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def drawn(tmp_path):
    assert main([f"--output={tmp_path / 'picture.svg'}"]) == 0
    return tmp_path / "picture.svg"


def test_the_picture_is_what_the_command_draws(drawn):
    assert drawn.read_text() == (ROOT / "docs/pictures/transformation.svg").read_text()


def test_a_spread_matrix_shows_the_cell_of_its_group(drawn):
    """The blocks of the page's formula, and a cell of another block as the control."""
    svg = ElementTree.parse(drawn)
    cells = [g for g in svg.iter("{http://www.w3.org/2000/svg}g") if g.get("class") == "cells"]
    fills = [[cell.get("fill") for cell in g] for g in cells]
    m_a, m_b, spread_a, kernel, spread_b, new_kernel = fills
    i, j = ENTRY
    p, q = i // (D // RANK), j // (K // RANK)
    assert spread_a[i * K + j] == m_a[i * RANK + q] != m_a[i * RANK + q - 1]
    assert spread_b[i * K + j] == m_b[p * K + j] != m_b[(p - 1) * K + j]
    assert len(kernel) == len(new_kernel) == D * K
    assert kernel != new_kernel


def test_a_colour_lies_between_those_of_the_scale():
    colors = ("#000000", "#808080", "#ffffff")
    assert [color_of(position, colors) for position in (-1, -0.5, 0, 1, 2)] == [
        "#000000", "#404040", "#808080", "#ffffff", "#ffffff",
    ]  # fmt: skip

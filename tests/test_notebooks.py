"""The notebooks run from top to bottom at a small size, and hold no outputs."""

import json
import os
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def parameters(small_model, small_data, small_encoder, small_glue, small_config_file, tmp_path):
    """What takes the place of each notebook's own parameters."""
    workdir = f"WORKDIR = {str(tmp_path)!r}\n"
    return {
        "quickstart": workdir + "STEPS = 4",
        "glue": f"TASK, MODEL, DATA = 'rte', {str(small_encoder)!r}, {str(small_glue)!r}\n"
        f"EPOCHS, RATES, BATCH_SIZE, MAX_LENGTH = 2.0, {{'hut': 1e-2, 'lora': 1e-3}}, 8, 64\n{workdir}",
        "e2e": f"MODEL, DATA, STEPS, BEAMS = {str(small_model)!r}, {str(small_data)!r}, 4, 2\n{workdir}",
        "write_your_own": workdir + "STEPS = 2",
        "rank_ablation": f"CONFIG, METHODS, RANKS = {str(small_config_file)!r}, 'hut,lora', '1,2'\n"
        f"SEEDS, RATES, STEPS = '0', '1', 2\n{workdir}",
        "results": "RANKS = 'results/e2e_books.jsonl'\nRECORDS = ['results/minilm_cola.jsonl', RANKS]",
    }


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stripped_has_its_badge_and_a_cell_of_parameters(path):
    cells = read(path)["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert f"https://colab.research.google.com/github/hut-jax/hut_jax/blob/main/notebooks/{path.name}" in "".join(
        cells[0]["source"]
    )
    assert sum("parameters" in cell["metadata"].get("tags", ()) for cell in code) == 1


@pytest.mark.full
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, parameters, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))  # without Java, which takes its time
    one_device = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    monkeypatch.setenv("XLA_FLAGS", one_device)  # as most readers have
    if path.stem == "quickstart":
        monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS")  # its model is large enough to gain from them
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", ()):
            cell.source = parameters[path.stem]
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(ROOT)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any(output.output_type == "stream" for output in outputs)

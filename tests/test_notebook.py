"""The notebook runs from its first cell to its last, in a small clone, and leaves the clone as it was."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from conftest import Clone


@pytest.mark.slow
def test_the_tour_runs_and_leaves_the_files_as_they_are(reproduced: Clone, tmp_path: Path, forks: None) -> None:
    clone = reproduced.copied(tmp_path / "clone")
    tour = clone.folder / "notebooks/tour.ipynb"
    notebook = nbformat.read(tour, as_version=4)
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tour.parent}})
    client.execute()  # a failing cell raises
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    for said in ("parameters, from (None, 28, 28, 1) to (None, 10)", "Ran experiment(s): tour", "not decided"):
        assert said in printed
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2  # mistakes and curves
    assert clone.git("status", "--porcelain") == ""
    assert "tour" not in clone.experiments()

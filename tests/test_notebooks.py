"""The notebooks run from top to bottom, on a small phantom."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SMALL = {
    "chest_tour": """
data = ["data=chest_phantom", "data.size=32", "data.phantom.patients=60", "data.phantom.size=64",
        "classifier=compact", "classifier.widths=[4,8]", "evaluation.batch_size=8"]
steps, regions, permutations = 20, "quadrants", 100
""",
}


def test_every_notebook_is_tested_and_holds_no_output() -> None:
    notebooks = sorted(NOTEBOOKS.glob("*.ipynb"))
    assert [path.stem for path in notebooks] == sorted(SMALL)
    for path in notebooks:
        cells = nbformat.read(path, as_version=4).cells
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


@pytest.mark.parametrize("name", SMALL)
def test_it_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    (settings,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    settings.source = SMALL[name]
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "on test patients: AUROC" in said
    assert "AS PUBLISHED (SEED), GRADIENT" in said

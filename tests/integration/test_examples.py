"""Everything in examples/ runs as it is, against the demo endpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from evalshim.demo.endpoint import Endpoint
from tests.integration.conftest import rows, shim

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(p for p in EXAMPLES.iterdir() if p.suffix in (".yaml", ".json"))


def test_every_example_is_run_by_a_test() -> None:
    used = "".join(p.read_text() for p in FILES)
    others = {p.name for p in EXAMPLES.iterdir()} - {p.name for p in FILES} - {"notebook.ipynb"}

    assert {name for name in others if name in used} == others
    assert {p.name for p in (EXAMPLES / "data").iterdir() if p.suffix != ".png"} == {
        p.name for p in (EXAMPLES / "data").iterdir() if f"data/{p.name}" in used
    }


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_a_configuration(path: Path, tmp_path: Path) -> None:
    with Endpoint() as endpoint:
        done = shim("run", path, "--api-base", endpoint.url, "--json", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert {r["status"] for r in rows(done)} == {"scored"}
    # A first score of 0 looks like something broken.
    assert all(r["value"] > 0 for r in rows(done) if r["is_primary"])


def test_the_notebook(tmp_path: Path) -> None:
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()

    found = [_outputs(cell) for cell in notebook.cells if cell.cell_type == "code"]
    assert "MMBench_DEV_EN" in found[1]
    assert "<table" in found[2] and "demo_gsm8k" in found[2]
    assert "scored" in found[2] and "Traceback" not in json.dumps(notebook)
    assert "evalshim-demo_demo_shapes_acc" in found[5]


def _outputs(cell: Any) -> str:
    return json.dumps([o for o in cell.outputs if o.output_type != "stream"])

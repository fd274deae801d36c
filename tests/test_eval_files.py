"""Which samples have no answer, by the names that they bear where they are graded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evalshim.worker import eval_files

FAILED = "Failed to obtain answer via API."


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("index\tprediction\n0\tA\n007\tB\n", set()),
        (f"index\tprediction\n0\tA\n007\t{FAILED}\nx\t['a', '{FAILED}']\n", {"007", "x"}),
        # A set of sets, whose parts count from 0.
        (
            "index\tSUB_DATASET\toriginal_index\tprediction\n"
            f"0\tone\t0\t{FAILED}\n1\ttwo\t0\tA\n2\ttwo\t1\t{FAILED}\n",
            {"one/0", "two/1"},
        ),
        # HiPhO_ALL is graded as one.
        (f"index\tSUB_DATASET\tprediction\n5\tone\t{FAILED}\n", {"5"}),
        # The words of a question are no answer that failed.
        (f"index\tquestion\tprediction\n0\tWhat is '{FAILED}'?\tA\n", set()),
    ],
)
def test_samples_without_an_answer(tmp_path: Path, text: str, found: set[str]) -> None:
    path = tmp_path / "m_d.tsv"
    path.write_text(text)

    unanswered: Any = eval_files.unanswered  # the worker has no types
    assert unanswered(str(path)) == found

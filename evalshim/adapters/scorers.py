"""What can score a set of questions of the user's own, and where it comes from."""

from __future__ import annotations

from typing import NamedTuple


class Scorer(NamedTuple):
    """What a scorer does, and whose code does it."""

    what: str
    source: str


SCORERS = {
    "accuracy": Scorer(
        "1 where the prediction equals one of the answers, case ignored",
        "VLMEvalKit, vqa_eval.process_line, as for OCRVQA",
    ),
    "anls": Scorer(
        "1 - normalised edit distance to the nearest answer; below 0.5 it is 0",
        "VLMEvalKit, vqa_eval.anls_compute, as for DocVQA",
    ),
    "bleu_rouge": Scorer(
        "BLEU-1..4 and Rouge-1/2/L, recall, precision and F",
        "nltk, jieba and rouge_chinese, as in EvalScope's general_vqa",
    ),
    "judge": Scorer(
        "1 where the judge finds the short answer correct; needs `judge`",
        "VLMEvalKit, ImageShortQADataset",
    ),
    "relaxed_accuracy": Scorer(
        "numbers within 5 %, other answers equal, case ignored",
        "VLMEvalKit, vqa_eval.relaxed_correctness, as for ChartQA",
    ),
    "vqa_score": Scorer(
        "VQA v2's: each answer against the others, min(1, matches / 3); one alone scores 0",
        "VLMEvalKit, vqa_eval.process_line, as for TextVQA",
    ),
}

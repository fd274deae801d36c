"""A scorer of one's own: the last word of a prediction counts.

A plug-in runs inside the toolkit's environment; `shim run` names its file and line
where it raises.
"""

import ast

from vlmeval.dataset.image_vqa import CustomVQADataset
from vlmeval.smp import load


class LastWord(CustomVQADataset):
    def build_prompt(self, line):
        message = super().build_prompt(line)
        message[-1]["value"] += "\nEnd with the answer alone."
        return message

    def evaluate(self, eval_file, **judge_kwargs):
        data = load(eval_file)
        hits = [
            str(prediction).rstrip(".").split()[-1:] == [answer]
            for prediction, answers in zip(data["prediction"], data["answer"], strict=True)
            for answer in _listed(str(answers))[:1]
        ]
        return {"Overall": sum(hits) / len(hits)}


def _listed(cell):
    return ast.literal_eval(cell) if cell.startswith("[") else [cell]

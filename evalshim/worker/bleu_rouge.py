"""BLEU and Rouge as EvalScope's general_vqa computes them (1.14), by nltk, jieba, rouge_chinese."""

import atexit
import contextlib
import functools
import importlib.util
import os
import re
import shutil
import tempfile

from . import turns

METRICS = [
    *(f"bleu-{n}" for n in range(1, 5)),
    *(f"Rouge-{kind}-{part}" for kind in "12L" for part in "RPF"),
]
_THOUGHTS = re.compile("<think>.*?</think>", re.DOTALL)
_CHINESE = re.compile("[\u4e00-\u9fa5]")


def evaluate(self, eval_file, **judge_kwargs):
    """Metrics overall and by category; beside the predictions a file with those of each sample."""
    import pandas as pd
    from vlmeval.smp import dump, get_intermediate_file_path

    find_sentence_model()
    # Upstream's load (0.0.20) takes the words None and NA for empty cells.
    data = pd.read_csv(eval_file, sep="\t", dtype=str, keep_default_na=False)
    pairs = zip(data["prediction"], data["answer"], strict=True)
    found = [scores(_without_thoughts(p), _joined(answer)) for p, answer in pairs]
    for metric in METRICS:
        data[metric] = [one[metric] for one in found]
    dump(data, get_intermediate_file_path(eval_file, "_results"))
    groups = {"Overall": found}
    if "category" in data:
        for name in sorted({*data["category"]} - {""}):
            mine = data["category"] == name
            groups[name] = [one for one, own in zip(found, mine, strict=True) if own]
    result = {name: _means(members) for name, members in groups.items()}
    dump(result, get_intermediate_file_path(eval_file, "_score", "json"))
    return result


def primary(metrics):
    """EvalScope's main score."""
    key = "Overall|Rouge-L-R"
    return {key: metrics[key]} if key in (metrics or {}) else {}


def scores(prediction, answer):
    """The metrics of one sample."""
    import jieba
    from nltk import word_tokenize
    from nltk.translate.bleu_score import sentence_bleu
    from rouge_chinese import Rouge

    def words(text):
        return list(jieba.cut(text)) if _CHINESE.search(text) else word_tokenize(text)

    def parted(text):
        return " ".join(jieba.cut(text)) if _CHINESE.search(text) else text

    own, reference = words(prediction), [words(answer)]
    found = {}
    for n in range(1, 5):
        weights = tuple(float(n == k) for k in range(1, 5))
        found[f"bleu-{n}"] = float(sentence_bleu(reference, own, weights=weights))
    try:
        rouge = Rouge().get_scores(parted(prediction), parted(answer), ignore_empty=True)[0]
    except Exception:  # an empty text has none: 0, as in EvalScope
        rouge = None
    for kind in "12L":
        for part in "RPF":
            named = rouge[f"rouge-{kind.lower()}"] if rouge else {}
            found[f"Rouge-{kind}-{part}"] = named.get(part.lower(), 0.0)
    return found


def _without_thoughts(prediction):
    """EvalScope takes the first block of thoughts away before it scores."""
    whole, found = _THOUGHTS.subn("", prediction, count=1)
    return whole.strip() if found else prediction


def _joined(answer):
    """Several answers are one text, a line each (TaskState.target)."""
    from .literals import value

    parts = [answer]
    if answer.startswith("[") and answer.endswith("]"):
        with contextlib.suppress(Exception):  # brackets that are part of the answer
            listed = value(answer)
            if listed and all(isinstance(part, str) for part in listed):
                parts = listed
    return "\n".join(dict.fromkeys(part.strip() for part in parts if part.strip()))


def _means(found):
    return {metric: sum(one[metric] for one in found) / len(found) for metric in METRICS}


@functools.cache
def find_sentence_model():
    """nltk's word_tokenize needs `punkt_tab`, which is on no package index by itself;
    llama-index-core, which the managed environment has for it, carries a copy."""
    import nltk

    package = importlib.util.find_spec("llama_index")
    within = os.path.join("core", "_static", "nltk_cache", "tokenizers", "punkt_tab", "english")
    found = [
        os.path.join(f, within) for f in (package.submodule_search_locations if package else ())
    ]
    if copies := [folder for folder in found if os.path.isdir(folder)]:
        # nltk (3.10) reads no file with a second link to it, as uv's cache has.
        root = tempfile.mkdtemp(prefix="evalshim-nltk-", dir=turns.scratch())
        atexit.register(shutil.rmtree, root, ignore_errors=True)
        shutil.copytree(copies[0], os.path.join(root, "tokenizers", "punkt_tab", "english"))
        nltk.data.path.append(root)
        return
    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError:
        if not nltk.download("punkt_tab", quiet=True):
            raise RuntimeError(
                "nltk's punkt_tab is missing and cannot be downloaded: pip install "
                "llama-index-core, which has it, or set NLTK_DATA to a folder with it"
            ) from None

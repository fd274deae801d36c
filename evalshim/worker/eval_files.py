"""The file of predictions as the `evaluate` of each of upstream's sets takes it (vlmeval 0.0.20).

The worker keeps predictions as TSV, which loses none, in a folder of each cell's own. A set of
sets (ConcatDataset) makes a file of each of its parts, and each counts its samples from 0.
"""

import functools
import mmap
import os

from . import environment

# A prediction that never came (BaseAPI).
FAIL_MSG = "Failed to obtain answer"

# Sets that take .xlsx alone, upstream's default: they demand it, have pandas read it or what they
# made of it, or name by that ending what they write, and so write over a file with another.
_SPREADSHEETS = (
    "AffordanceDataset", "GSM8KVDataset", "HiPhODataset", "MATBench", "MVTamperBench",
    "MedqbenchCaptionDataset", "MedqbenchMCQDataset", "MedqbenchPairedDescriptionDataset",
    "OMTGBench", "OSTDataset", "OceanOCRBench", "TDBench", "TDBenchGrounding", "TreeBench",
    "V2PBench", "VCRBench", "olmOCRBench",
)  # fmt: skip

_part = None  # of a set of sets, the one under evaluation


def taken(dataset):
    """The dataset's `evaluate`, for predictions that stand where and as we keep them."""
    evaluate = dataset.evaluate
    for name, part in _parts(dataset).items():
        part.evaluate = _of_part(name, part.evaluate)

    @functools.wraps(evaluate)
    def evaluated(eval_file, *args, **kwargs):
        if type(dataset).__name__ not in _SPREADSHEETS:
            return evaluate(_Path(eval_file), *args, **kwargs)
        with environment.variables({"PRED_FORMAT": "xlsx"}):
            return evaluate(_Path(_spreadsheet(eval_file)), *args, **kwargs)

    return evaluated


def graded(dataset, eval_file):
    """What is graded: a set, its file of predictions, and the beginning of the names of its
    samples. Of a set of sets these are its parts."""
    own = getattr(dataset, "dataset_name", "")
    found = [
        (part, _Path(eval_file).replace(own, name), f"{name}/")
        for name, part in _parts(dataset).items()
    ]
    return found or [(dataset, eval_file, "")]


def named(sample):
    """How a sample that is being graded is called in the whole of its dataset."""
    return sample if _part is None or sample is None else f"{_part}/{sample}"


def unanswered(eval_file):
    """Samples without an answer, as they are called where they are graded."""
    import pandas as pd

    with open(eval_file, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as text:
        if text.find(FAIL_MSG.encode()) < 0:
            return set()
    table = pd.read_csv(eval_file, sep="\t", dtype=str, keep_default_na=False)
    table = table[table["prediction"].str.contains(FAIL_MSG, regex=False)]
    if not {"SUB_DATASET", "original_index"}.issubset(table):
        return {*table["index"]}
    return {*(table["SUB_DATASET"] + "/" + table["original_index"])}


def _parts(dataset):
    return getattr(dataset, "dataset_map", {})


def _of_part(name, evaluate):
    @functools.wraps(evaluate)
    def evaluated(*args, **kwargs):
        global _part
        _part = name
        try:
            return evaluate(*args, **kwargs)
        finally:
            _part = None

    return evaluated


class _Path(str):
    """A path of which `replace` changes the file's name alone.

    A set of sets replaces its own name by that of each, all over the path; others an ending.
    """

    def replace(self, old, new, count=-1):
        folder, name = os.path.split(self)
        return _Path(os.path.join(folder, name.replace(old, new, count)))


def _spreadsheet(path):
    """A copy of predictions with the types that they have before upstream keeps them."""
    import pandas as pd
    from vlmeval.smp import load

    data = load(path)
    as_text = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    data["prediction"] = as_text["prediction"]
    copy = f"{os.path.splitext(path)[0]}.xlsx"
    # Upstream's own way, but for what looks like a link or a formula: it would come back as none.
    options = {"strings_to_urls": False, "strings_to_formulas": False}
    data.to_excel(copy, index=False, engine="xlsxwriter", engine_kwargs={"options": options})
    return copy

"""The file of predictions as the `evaluate` of each of upstream's sets takes it (vlmeval 0.0.20).

The worker keeps predictions as TSV, which loses none, in a folder of each cell's own.
"""

import functools
import os

from . import judging

# Sets that take .xlsx alone, upstream's default: they demand it, have pandas read it, or name by
# that ending what they write, and so write over a file with another.
_SPREADSHEETS = (
    "AffordanceDataset", "GSM8KVDataset", "HiPhODataset", "MATBench", "MVTamperBench",
    "MedqbenchCaptionDataset", "MedqbenchMCQDataset", "MedqbenchPairedDescriptionDataset",
    "OMTGBench", "OSTDataset", "OceanOCRBench", "TreeBench", "V2PBench", "VCRBench", "olmOCRBench",
)  # fmt: skip


def taken(dataset):
    """The dataset's `evaluate`, for predictions that stand where and as we keep them."""
    evaluate = dataset.evaluate

    @functools.wraps(evaluate)
    def evaluated(eval_file, *args, **kwargs):
        if type(dataset).__name__ not in _SPREADSHEETS:
            return evaluate(_Path(eval_file), *args, **kwargs)
        with judging.variables({"PRED_FORMAT": "xlsx"}):
            return evaluate(_Path(_spreadsheet(eval_file)), *args, **kwargs)

    return evaluated


class _Path(str):
    """A path of which `replace` changes the file's name alone.

    Sets of several sets (ConcatDataset) replace their own name by that of each, all over the
    path; others an ending.
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

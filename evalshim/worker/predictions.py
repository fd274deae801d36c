"""Predictions made elsewhere, in the place and form of upstream's own."""

import json
import os


def read(path):
    """`{index: prediction}` of the file that the parent wrote (adapters/predictions.py)."""
    with open(path, encoding="utf-8") as file:
        return dict(json.loads(line) for line in file)


def place(cell, dataset, path):
    """Write the predictions of a cell as VLMEvalKit (infer_data_job, 0.0.20) would have."""
    from vlmeval.smp import dump

    given = read(cell["predictions"])
    data = dataset.data.drop(columns="image", errors="ignore").copy()
    match(given, [str(index) for index in data["index"]])
    data["prediction"] = [given[str(index)] for index in data["index"]]
    os.makedirs(os.path.dirname(path), exist_ok=True)
    dump(data, path)


def match(given, wanted):
    """Hold the indices of predictions against those of the dataset.

    Raises:
        ValueError: They are not the same.
    """
    lacking = [index for index in wanted if index not in given]
    strange = set(given) - set(wanted)
    if not lacking and not strange:
        return
    parts = [f"{len(given)} predictions for {len(wanted)} samples"]
    if lacking:
        parts.append(f"none for {len(lacking)} of them ({_some(lacking)})")
    if strange:
        parts.append(f"{len(strange)} for samples that it has not ({_some(sorted(strange))})")
    raise ValueError("; ".join(parts) + "; `limit` must be as it was for them")


def _some(indices):
    return ", ".join(indices[:5]) + (", ..." if len(indices) > 5 else "")

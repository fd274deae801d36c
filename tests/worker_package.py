"""The worker's modules for a script that runs in an upstream's environment, without evalshim."""

from __future__ import annotations

from pathlib import Path

WORKER = Path(__file__).parents[1] / "evalshim" / "worker"

# What such a script begins with: the package by the name that it has in a worker.
AS_WORKER = f"""
import importlib.util, json, os, sys
spec = importlib.util.spec_from_file_location(
    "evalshim_worker", {str(WORKER / "__init__.py")!r}, submodule_search_locations=[{str(WORKER)!r}]
)
package = sys.modules["evalshim_worker"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
"""

"""What `shim doctor` finds: environments that import, disk, data directories. Changes nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from evalshim import envs, registry


def diagnose(python: str | None = None) -> dict[str, Any]:
    """The health of both backends, free disk in bytes, and where data is looked for."""
    with ThreadPoolExecutor() as pool:
        backends = list(pool.map(lambda b: envs.report(b, python), registry.BACKENDS))
    lmudata = os.environ.get("LMUData")
    # As LMUDataRoot (vlmeval 0.0.20) and get_data_path (opencompass 0.5.4) choose them.
    data = {
        "LMUData": lmudata
        if lmudata and Path(lmudata).exists()
        else str(Path("~/LMUData").expanduser()),
        "COMPASS_DATA_CACHE": str(
            Path(os.environ.get("COMPASS_DATA_CACHE") or ".").absolute() / "data"
        ),
    }
    return {
        "backends": backends,
        "home": str(envs.home()),
        "disk_free": shutil.disk_usage(_existing(envs.home())).free,
        "data": {name: {"path": p, "exists": Path(p).exists()} for name, p in data.items()},
    }


def text(found: Mapping[str, Any]) -> str:
    """The findings for a person."""
    lines = []
    for backend in found["backends"]:
        if not backend["usable"]:
            lines += [f"{backend['backend']}: NOT USABLE", _indented(backend["problem"])]
            continue
        lines += [
            f"{backend['backend']}: ok",
            f"  interpreter  {backend['python']} ({backend['reason']})",
            f"  upstream     {backend['distribution']} {backend['version']}, "
            f"torch {backend['torch']}, imported in {backend['seconds']} s",
        ]
        if "size" in backend:
            lines.append(
                f"  size         {backend['size'] / 1e9:.1f} GB, {backend['packages']} packages"
            )
    lines.append(f"disk free in {found['home']}: {found['disk_free'] / 1e9:.1f} GB")
    for name, place in found["data"].items():
        lines.append(f"{name}: {place['path']}{'' if place['exists'] else ' (not there yet)'}")
    return "\n".join(lines)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())

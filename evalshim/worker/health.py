"""Whether an upstream imports in this environment, and what is installed."""

import importlib
import platform
import sys
import time

from . import channel, torchvision_ops

# Module to import, and the distributions that may carry it, most likely first.
UPSTREAMS = {
    "vlmeval": ("vlmeval.config", ("ms-vlmeval", "vlmeval")),
    "opencompass": ("opencompass.cli.main", ("opencompass", "ms-opencompass")),
}


def run(job):
    """Import the upstream that the job names for real, and report `ready`."""
    begun = time.monotonic()
    torchvision_ops.install()
    importlib.import_module(UPSTREAMS[job["upstream"]][0])
    announce(job["upstream"], begun)


def announce(upstream, begun):
    """Report `ready`: what of `upstream` is imported, and how long that took."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"distribution": upstream, "version": "unknown"}
    for name in UPSTREAMS[upstream][1]:
        try:
            found = {"distribution": name, "version": version(name)}
            break
        except PackageNotFoundError:
            continue
    torch = sys.modules.get("torch")
    channel.emit(
        "ready",
        upstream=upstream,
        **found,
        python_version=platform.python_version(),
        torch=getattr(torch, "__version__", None),
        seconds=round(time.monotonic() - begun, 1),
    )

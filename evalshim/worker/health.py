"""Whether an upstream imports in this environment, and what is installed."""

import contextlib
import importlib.util
import json
import os
import platform
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


def _commit(distribution, module):
    """The commit of what was installed from a repository, or is a checkout."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import distribution as of

    with contextlib.suppress(PackageNotFoundError, ValueError, KeyError, TypeError):
        return json.loads(of(distribution).read_text("direct_url.json"))["vcs_info"]["commit_id"]
    places = importlib.util.find_spec(module).submodule_search_locations
    head = os.path.join(os.path.dirname(os.path.realpath(places[0])), ".git", "HEAD")
    with contextlib.suppress(OSError):
        with open(head) as file:
            word = file.read().strip().removeprefix("ref: ")
        if "/" not in word:
            return word
        with open(os.path.join(os.path.dirname(head), word)) as file:
            return file.read().strip()
    return None


def announce(upstream, begun):
    """Report `ready`: what of `upstream` is imported, and how long that took."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"distribution": upstream, "version": "unknown", "torch": None}
    for name in UPSTREAMS[upstream][1]:
        try:
            found.update(distribution=name, version=version(name))
            break
        except PackageNotFoundError:
            continue
    found["commit"] = _commit(found["distribution"], upstream)
    with contextlib.suppress(PackageNotFoundError):
        found["torch"] = version("torch")
    channel.emit(
        "ready",
        upstream=upstream,
        **found,
        python_version=platform.python_version(),
        seconds=round(time.monotonic() - begun, 1),
    )

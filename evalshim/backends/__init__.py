"""The upstreams that evalshim knows, by name."""

from __future__ import annotations

from evalshim.backends import opencompass, vlmeval
from evalshim.backends.base import Backend
from evalshim.spec import BackendName

BACKENDS: dict[BackendName, Backend] = {"opencompass": opencompass, "vlmeval": vlmeval}

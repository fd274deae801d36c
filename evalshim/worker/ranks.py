"""Upstream's data-parallel inference without torchrun: the same variables, a process a GPU.

VLMEvalKit's run.py reads RANK, WORLD_SIZE and their like when it is imported (0.0.20),
and divides the samples among the ranks. This process is rank 0, the only one that
reports; the others run the same job.
"""

import datetime
import json
import os
import socket
import subprocess
import sys
import threading

from . import channel

_VARIABLES = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip


def start(job):
    """Start the other ranks of a job that asks for more than one; before upstream's import."""
    if os.environ.get(channel.RANK):
        return
    # A scheduler's own must not make this one of the ranks of something else.
    for name in _VARIABLES:
        os.environ.pop(name, None)
    count = job.get("gpus", 1)
    if count == 1:
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    for rank in range(1, count):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), channel.RANK: str(rank)}
        process = subprocess.Popen(
            [sys.executable, os.path.join(os.path.dirname(__file__), "__main__.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # one rank's events are enough
            env={**os.environ, **shared, **own},
        )
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.flush()
        threading.Thread(target=_follow, args=(process, rank), daemon=True).start()
    os.environ.update({**shared, "RANK": "0", "LOCAL_RANK": "0"})


def _follow(process, rank):
    """A rank that died leaves the others waiting at the next barrier for an hour."""
    code = process.wait()
    if code:
        channel.section()
        sys.stderr.write(f"rank {rank} died (exit code {code})\n")
        sys.stderr.flush()
        os._exit(1)


def join():
    """Let the ranks meet once for all cells, over gloo where there is no CUDA.

    run.py (0.0.20) meets anew at each call, over nccl, and a rank that does not grade
    would be at the next call before the first has left this one.
    """
    import torch
    import torch.distributed as dist

    backend = "nccl" if torch.cuda.is_available() else "gloo"
    patience = datetime.timedelta(seconds=int(os.environ.get("DIST_TIMEOUT", 3600)))
    dist.init_process_group(backend, timeout=patience)
    dist.init_process_group = dist.destroy_process_group = lambda *args, **kwargs: None


def wait():
    """Wait for the other ranks at the end of a cell."""
    import torch.distributed as dist

    dist.barrier()

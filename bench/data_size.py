"""What a large data file costs: memory and time of evalshim's check and placing, beside upstream's
own reading of the same file.

    python bench/data_size.py [--rows 100000] [--megabytes 2048]

Needs `shim setup vlmeval`. Prints each as the peak of a process of its own; the file is made in a
temporary folder and removed.
"""

from __future__ import annotations

import argparse
import base64
import io
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from evalshim import envs

PEAK = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
OURS = """
import sys
from pathlib import Path
from evalshim.adapters import {module}
path = Path(sys.argv[1])
{module}.{step}
"""
UPSTREAMS = "import sys, pandas as pd; data = pd.read_csv(sys.argv[1], sep='\\t')"
IMPORTS = {"evalshim": "from evalshim.adapters import custom_data; import PIL.Image",
           "upstream": "import pandas"}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--megabytes", type=int, default=2048)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.tsv"
        write(path, asked.rows, asked.megabytes * 2**20)
        print(f"{asked.rows} rows, {path.stat().st_size / 2**20:.0f} MB")
        print(f"{'':26}{'peak':>9}{'imports':>9}{'time':>9}")
        check = 'inspect(path, "mcq")'
        place = 'place(path, "mcq", path.parent / "placed" / "large.tsv")'
        upstream = envs.interpreter("vlmeval").python
        for name, module, step in (("check", "custom_data", check), ("place", "placing", place)):
            code = OURS.format(module=module, step=step)
            measure(f"evalshim: {name}", sys.executable, code, path, "evalshim")
        measure("upstream: load", upstream, UPSTREAMS, path, "upstream")


def write(path: Path, rows: int, size: int) -> None:
    """A multiple-choice TSV of about `size` bytes, with a few different pictures in turn."""
    pictures = [_picture(size * 3 // 4 // rows, seed) for seed in range(8)]
    with path.open("w", encoding="utf-8") as file:
        file.write("index\tquestion\tA\tB\tanswer\timage\n")
        for i in range(rows):
            file.write(f"{i}\tWhich?\tthis\tthat\tA\t{pictures[i % len(pictures)]}\n")


def _picture(size: int, seed: int) -> str:
    side = max(8, int((size / 3) ** 0.5))
    noise = random.Random(seed).randbytes(side * side * 3)
    out = io.BytesIO()
    Image.frombytes("RGB", (side, side), noise).save(out, "PNG", compress_level=0)
    return base64.b64encode(out.getvalue()).decode()


def measure(name: str, python: str, code: str, path: Path, imports: str) -> None:
    begun = time.monotonic()
    peak = _peak(python, code, path)
    took = time.monotonic() - begun
    print(f"{name:26}{peak:>6} MB{_peak(python, IMPORTS[imports], path):>6} MB{took:>7.1f} s")


def _peak(python: str, code: str, path: Path) -> int:
    done = subprocess.run(
        [python, "-c", f"{code}\n{PEAK}", str(path)], capture_output=True, text=True, check=True
    )
    return int(done.stdout.split()[-1])


if __name__ == "__main__":
    main()

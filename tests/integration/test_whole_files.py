"""Upstream's own files are written beside their place and moved over it (worker/whole_files.py)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.worker_package import AS_WORKER

# A table whose last cell kills the process that writes it.
_KILLED = """
folder, whose = sys.argv[1:]
from evalshim_worker import whole_files
import pandas as pd
import vlmeval.smp
if whose == "ours":
    whole_files.write_whole()
path = os.path.join(folder, "m_d.tsv")
vlmeval.smp.dump(pd.DataFrame({"index": [1], "prediction": ["old"]}), path)

class Deadly:
    def __str__(self):
        sys.stdout.flush()
        os.kill(os.getpid(), 9)

many = ["new"] * 200_000 + [Deadly()]
vlmeval.smp.dump(pd.DataFrame({"index": range(len(many)), "prediction": many}), path)
"""


@pytest.mark.parametrize("whose", ["ours", "upstreams"])
def test_a_table_that_a_kill_cuts_short_is_what_it_was(
    tmp_path: Path, environments: dict[str, Path], whose: str
) -> None:
    done = subprocess.run(
        [environments["vlmeval"], "-c", AS_WORKER + _KILLED, tmp_path, whose], capture_output=True
    )
    assert done.returncode == -9, done.stderr

    text = (tmp_path / "m_d.tsv").read_text()
    # Else there is nothing to mend any more.
    assert ("old" in text) == (whose == "ours")


_ROUND = """
[folder] = sys.argv[1:]
from evalshim_worker import whole_files
import pandas as pd
import vlmeval.smp
data = pd.DataFrame({"index": [1, 2], "prediction": ["a\\tb", "c\\n"]})
values = {"tsv": data, "csv": data, "xlsx": data, "json": {"a": 1}, "pkl": {1: (2,)},
          "jsonl": [{"a": 1}]}
for whose in ("upstreams", "ours"):
    if whose == "ours":
        whole_files.write_whole()
    for kind, value in values.items():
        vlmeval.smp.dump(value, os.path.join(folder, f"{whose}.{kind}"))
    # What a format cannot hold becomes a pickle.
    vlmeval.smp.dump({"a": {1, 2}}, os.path.join(folder, f"{whose}_odd.json"))
"""


def test_every_kind_of_file_is_what_upstream_writes(
    tmp_path: Path, environments: dict[str, Path]
) -> None:
    subprocess.run([environments["vlmeval"], "-c", AS_WORKER + _ROUND, tmp_path], check=True)

    names = sorted(p.name for p in tmp_path.iterdir())
    assert [n.replace("ours", "x") for n in names if "ours" in n] == [
        n.replace("upstreams", "x") for n in names if "upstreams" in n
    ]
    for kind in ("tsv", "csv", "json", "pkl", "jsonl"):
        ours, upstreams = (tmp_path / f"{w}.{kind}" for w in ("ours", "upstreams"))
        assert ours.read_bytes() == upstreams.read_bytes()
    assert (tmp_path / "ours_odd.pkl").exists()

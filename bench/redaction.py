"""What redaction costs a run: everything that was redacted of it, once again, against its time.

    python bench/redaction.py outputs/latest [...]

Every text file of the run is searched as often as a run does: upstream's twice (an answer when it
comes, the file when the run ends), the rest once, events a line at a time.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import datetime
from pathlib import Path

from evalshim import redaction

SECRETS = [f"sk-proj-{name}-aB3dE5gH7jK9mN1pQ3sT5vX7zA2cE4gI6kM8oQ0" for name in ("model", "judge")]


def cost(run: Path) -> tuple[float, float]:
    """Seconds of redaction, and of the whole run."""
    header = json.loads((run / "run.json").read_text())
    begun, ended = (datetime.fromisoformat(header[k]) for k in ("started_at", "finished_at"))
    secrets = [*SECRETS, *redaction.of_environment()]
    redaction.redact("", secrets)
    spent = time.process_time()
    for path in run.rglob("*"):
        if not path.is_file() or "LMUData" in path.parts:
            continue
        text = path.read_bytes().decode("latin-1")
        for _ in range(2 if "upstream" in path.parts else 1):
            for line in text.splitlines() if path.suffix in (".jsonl", ".log") else [text]:
                redaction.redact(line, secrets)
    return time.process_time() - spent, (ended - begun).total_seconds()


if __name__ == "__main__":
    for name in sys.argv[1:]:
        spent, whole = cost(Path(name).resolve())
        print(f"{name}: {spent:.3f} s of {whole:.1f} s, {100 * spent / whole:.2f} %")

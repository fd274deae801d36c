"""One process that evaluates the cells of one run with one upstream.

    python evalshim/worker/__main__.py

The wire contract
-----------------
stdin    One line: the job, a JSON document. Before it there may be {"import": "vlmeval" |
         "opencompass"}: to import that one, as a job over endpoints alone does, until the
         job is known. Then nothing; when stdin closes, the
         parent is gone and the worker ends itself and its children.
stdout   Events, one JSON object a line, nothing else but empty lines.
stderr   Whatever upstream prints on either stream. A line that begins with \\x1e is
         the worker's: what follows belongs to the log of the cell it names (to
         the backend's own log where it names none).

The job
    {"backend": "vlmeval" | "opencompass", "secrets": [variable, ...], "hidden": pattern, ...}
    `secrets` names the environment variables that hold keys, `hidden` is a regular
    expression of what no log may show (evalshim/redaction.py), `hidden_in_answers` of
    what no answer may. The rest is read by the backend's module: run_vlmeval,
    run_opencompass. Three more look around only: "health", "catalogue" (with "upstream")
    and "describe" (with "config", one of OpenCompass's).

The events, each {"event": kind, "cell": id or absent, ...}
    ready     the upstream is imported: upstream, distribution,
              version, python_version, torch, seconds
    started   pid: a cell, or a part of it, begins in that process
    progress  done, total, failed (without an answer): samples of the cell, or of the
              part of it that `part` names
    finished  status ("done" or "skipped"), error (why it was skipped), files
              {name: path}, spans (phases.py), further facts as the backend's adapter
              knows them
    failed    type, message, traceback; type Died: the process of the cell is gone
    catalogue what the upstream knows by name (evalshim/catalogue.py)
    counted   samples, requests, scorer: what a cell would ask, of a job with "count"
    described what a configuration evaluates (run_opencompass.describe)
    done      the last event: all cells were reported
The exit code is 0 after `done`; anything else is a worker that died.
"""

import importlib.util
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def _package() -> None:
    """Make this folder the package evalshim_worker."""
    # Run by path, sys.path[0] is this folder; its modules are a package, not top-level names.
    sys.path = [p for p in sys.path if os.path.abspath(p or ".") != HERE]
    spec = importlib.util.spec_from_file_location(
        "evalshim_worker", os.path.join(HERE, "__init__.py"), submodule_search_locations=[HERE]
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules["evalshim_worker"] = package
    spec.loader.exec_module(package)


def _import_early(upstream: str) -> None:
    import traceback

    try:
        if upstream == "vlmeval":
            from evalshim_worker import ranks
            from evalshim_worker import run_vlmeval as backend

            ranks.start({"gpus": 1})
        else:
            from evalshim_worker import run_opencompass as backend
        backend.import_upstream(True)
    except Exception:  # the job's own try says it as an event
        traceback.print_exc()


def main() -> None:
    _package()
    from evalshim_worker import channel, transport

    channel.claim_stdout()
    job = json.loads(sys.stdin.buffer.readline())
    if "import" in job:
        _import_early(job["import"])
        line = sys.stdin.buffer.readline()
        if not line:  # there will be none
            os._exit(0)
        job = json.loads(line)
    channel.claim_stdin()
    channel.hide(job.get("hidden"), job.get("hidden_in_answers"))
    transport.know(job.get("secrets", ()))
    if job["backend"] == "health":
        from evalshim_worker import health as backend
    elif job["backend"] == "catalogue":
        from evalshim_worker import catalogue as backend
    elif job["backend"] == "describe":
        from evalshim_worker import run_opencompass as backend

        channel.emit("described", **backend.describe(job["config"]))
        channel.emit("done")
        return
    elif job["backend"] == "vlmeval":
        from evalshim_worker import run_vlmeval as backend
    else:
        from evalshim_worker import run_opencompass as backend
    backend.run(job)
    channel.emit("done")
    if job.get("gpus", 1) == 1:
        # To take apart all that upstream imported would take seconds.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__":
    # A process of upstream's that was spawned, not forked: it reads cells too.
    _package()
    from evalshim_worker import literals

    literals.read_cells_as_literals()

"""Pictures that stand in the data, unpacked behind the calls that show them.

`ImageBaseDataset.dump_image` (vlmeval 0.0.20) writes each as a PNG before its call, for longer
than all the rest of a call takes this machine, and OpenAIWrapper reads it again. Here a call
gets what it would read, and processes of their own write the files meanwhile.
"""

import base64
import contextlib
import io
import mimetypes
import os
import pickle
import queue
import signal
import sys
import threading

# What upstream writes as PNG and reads back pixel by pixel, once it has made RGB of the last three.
_MODES = ("RGB", "L", "RGBA", "P", "LA")
_ROWS_A_PROCESS = 100

_local = threading.local()
_writers = None
_installed = False


def install():
    """Let what reads a picture for a call find those that are yet to be written."""
    global _installed
    import PIL.Image
    from vlmeval.api import base

    open_picture, parse_file = PIL.Image.open, base.parse_file

    def opened(fp, *args, **kwargs):
        held = _held().get(fp) if isinstance(fp, str) else None
        return open_picture(fp, *args, **kwargs) if held is None else _as_read_back(held)

    def parsed(s):
        return (mimetypes.types_map[".png"], s) if s in _held() else parse_file(s)

    PIL.Image.open, base.parse_file, _installed = opened, parsed, True


def _held():
    return _local.__dict__.setdefault("held", {})


def _as_read_back(base64_string):
    from vlmeval.smp import decode_base64_to_image

    picture = decode_base64_to_image(base64_string).copy()
    # Of a JPEG, its comment would go into the one that is sent.
    picture.info = {}
    return picture


def begin():
    """This thread is at its next sample."""
    _held().clear()


def later(base64_string, path):
    """Whether a picture will be written, and can be read meanwhile."""
    if _writers is None or os.path.splitext(path)[1].lower() != ".png":
        return False
    from PIL import Image

    if Image.open(io.BytesIO(base64.b64decode(base64_string))).mode not in _MODES:
        return False
    _held()[path] = base64_string
    _writers.put((base64_string, path))
    return True


@contextlib.contextmanager
def behind(model, dataset):
    """Have pictures written behind the calls of `model`, where nothing but these reads them.

    Yields a function that waits until they are, and says whether all could be; or None.
    """
    global _writers
    if not _installed or not _may(model, dataset):
        yield None
        return
    from vlmeval.smp import vlm

    write = vlm.decode_base64_to_image_file.now
    _writers = _Writers(write, min(os.cpu_count() or 1, 1 + len(dataset.data) // _ROWS_A_PROCESS))
    try:
        yield _writers.end
    finally:
        _writers.end()
        _writers = None


def _may(model, dataset):
    from vlmeval import api
    from vlmeval.dataset.image_base import ImageBaseDataset
    from vlmeval.dataset.image_mcq import ImageMCQDataset

    plain = (ImageBaseDataset.build_prompt, ImageMCQDataset.build_prompt)
    names = ("OpenAIWrapper", "CustomAPIModel", "GPT4V")
    return (
        type(model) in [getattr(api, name, None) for name in names]
        and getattr(type(dataset), "build_prompt", None) in plain
        and type(dataset).dump_image is ImageBaseDataset.dump_image
        and "image" in dataset.data
    )


class _Writers:
    """Processes that write pictures where nobody else needs the processor.

    They end with this one, at the end of the pipe by which they are fed.
    """

    def __init__(self, write, n):
        self._queue = queue.SimpleQueue()
        self._write = write
        self._all_written = None
        started = [self._start(write) for _ in range(n)]
        self._processes = [pid for pid, _ in started]
        self._feeders = [threading.Thread(target=self._feed, args=(p,)) for _, p in started]
        for feeder in self._feeders:
            feeder.daemon = True
            feeder.start()

    @staticmethod
    def _start(write):
        """A process, and the pipe that feeds it."""
        its_end, ours = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(ours)
            _write_all(its_end, write)
        os.close(its_end)
        return pid, ours

    def put(self, picture):
        self._queue.put(picture)

    def _feed(self, pipe):
        with contextlib.suppress(BrokenPipeError), os.fdopen(pipe, "wb") as file:
            while picture := self._queue.get():
                pickle.dump(picture, file)
                file.flush()

    def end(self):
        """Wait until all is written; whether all of it could be."""
        if self._all_written is None:
            whole = self._write_what_waits()
            for _ in self._feeders:
                self._queue.put(None)
            for feeder in self._feeders:
                feeder.join()
            # A later one has a copy of the pipe of one before it.
            codes = [os.waitpid(pid, 0)[1] for pid in reversed(self._processes)]
            self._all_written = whole and not any(codes)
        return self._all_written

    def _write_what_waits(self):
        """Nothing is called any more, and on a busy machine those processes hardly run."""
        whole = True
        with contextlib.suppress(queue.Empty):
            while True:
                whole &= _written(self._queue.get_nowait(), self._write)
        return whole


def _written(picture, write):
    try:
        write(*picture)
    except Exception as error:
        sys.stderr.write(f"{picture[1]}: {type(error).__name__}: {error}\n")
        return False
    return True


def _write_all(pipe, write):
    """What a process does; it never returns."""
    code = 0
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.nice(10)  # by 19, the lowest, a busy machine leaves a process hardly anything
        with os.fdopen(pipe, "rb") as file:
            while True:
                try:
                    picture = pickle.load(file)
                except EOFError:
                    break
                if not _written(picture, write):
                    code = 1
    except BaseException:
        code = 1
    finally:
        os._exit(code)

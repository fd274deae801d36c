"""Data that other runs read meanwhile: each file and folder of it is there whole, or not at all.

Upstream writes in their places, and who comes by meanwhile, or after a kill, takes half of one
for all of it.
"""

import contextlib
import fcntl
import functools
import importlib
import os
import shutil
import sys
import uuid

from . import unpacking


def write_whole():
    """Files in $LMUData (vlmeval 0.0.20): pictures that are unpacked, of which `read_ok` looks at
    no more than the header; downloads, and the copy without pictures (`<dataset>_local.tsv`)
    of a file beyond 1 GB, which need only be there."""
    from vlmeval.smp import file, vlm

    given = {
        "decode_base64_to_image_file": (vlm.decode_base64_to_image_file, _unpacking),
        "download_file": (file.download_file, _downloading),
        "dump": (file.dump, _dumping),
    }
    whole = {name: (upstream, make(upstream)) for name, (upstream, make) in given.items()}
    for module_name, module in list(sys.modules.items()):
        own = vars(module) if module_name.startswith("vlmeval") else {}
        for name, (upstream, ours) in whole.items():
            if own.get(name) is upstream:
                setattr(module, name, ours)


def unpack_whole():
    """Folders in $COMPASS_DATA_CACHE (opencompass 0.5.4): an archive is unpacked where a folder
    need only be there, by every run that misses it, and removed under the others."""
    from opencompass.utils import datasets

    # Its package has mmengine's module under this name.
    fileio = importlib.import_module("opencompass.utils.fileio")
    extract_archive, download_dataset = fileio.extract_archive, datasets.download_dataset

    def extract(from_path, to_path=None, remove_finished=False):
        to_path = to_path or os.path.dirname(from_path)
        beside = os.path.join(to_path, f".{uuid.uuid4().hex}")
        os.makedirs(beside)
        try:
            extract_archive(from_path, beside)
            _move(beside, to_path)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        if remove_finished:
            os.remove(from_path)

    def download(data_path, cache_dir, *args, **kwargs):
        with _one_at_a_time(cache_dir or datasets.DEFAULT_DATA_FOLDER):
            if os.path.exists(data_path):  # another run has fetched it meanwhile
                return data_path
            return download_dataset(data_path, cache_dir, *args, **kwargs)

    fileio.extract_archive, datasets.download_dataset = extract, download


def _move(source, target):
    """Move what is in a folder into another, which may have some of it."""
    for name in os.listdir(source):
        here, there = os.path.join(source, name), os.path.join(target, name)
        if os.path.isdir(here) and os.path.isdir(there):
            _move(here, there)
        else:
            os.replace(here, there)


@contextlib.contextmanager
def _one_at_a_time(folder):
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # no such folder to be, or no locks there
            os.makedirs(folder, exist_ok=True)
            file = stack.enter_context(open(os.path.join(folder, ".evalshim.lock"), "a"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                sys.stderr.write(f"waiting for another run that fetches data into {folder}\n")
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _unpacking(upstream):
    @functools.wraps(upstream)
    def unpack(base64_string, image_path, *args, **kwargs):
        if args or kwargs or not unpacking.later(base64_string, image_path):
            write(base64_string, image_path, *args, **kwargs)

    def write(base64_string, image_path, *args, **kwargs):
        _beside(image_path, lambda path: upstream(base64_string, path, *args, **kwargs))

    unpack.now = write
    return unpack


def _downloading(upstream):
    @functools.wraps(upstream)
    def download(url, filename=None):
        filename = filename or url.split("/")[-1]
        _beside(filename, lambda path: upstream(url, path))
        return filename

    return download


def _dumping(upstream):
    @functools.wraps(upstream)
    def dump(data, f, **kwargs):
        if not str(f).endswith("_local.tsv"):
            return upstream(data, f, **kwargs)
        return _beside(f, lambda path: upstream(data, path, **kwargs))

    return dump


def _beside(path, write):
    """Have `write` write a file beside `path`, of the same suffix, and move it there."""
    folder, name = os.path.split(path)
    beside = os.path.join(folder, f".{uuid.uuid4().hex}{os.path.splitext(name)[1]}")
    try:
        written = write(beside)
        os.replace(beside, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(beside)
    return written

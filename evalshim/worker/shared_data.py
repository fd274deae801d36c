"""Files in $LMUData, which other runs read meanwhile: each is written whole, or not at all.

Upstream (vlmeval 0.0.20) writes in their places the pictures that it unpacks
(`decode_base64_to_image_file`), what it downloads (`download_file`), and the copy without
pictures of a file beyond 1 GB (`dump` of `<dataset>_local.tsv`). Who comes by meanwhile, or
after a kill, takes half of one for all of it: `read_ok` looks at no more than a picture's
header, the others at whether there is a file.
"""

import contextlib
import functools
import os
import sys
import uuid


def write_whole():
    """Put ours in the place of upstream's functions, in whichever modules have them by name."""
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


def _unpacking(upstream):
    @functools.wraps(upstream)
    def unpack(base64_string, image_path, *args, **kwargs):
        _beside(image_path, lambda path: upstream(base64_string, path, *args, **kwargs))

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

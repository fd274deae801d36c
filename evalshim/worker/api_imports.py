"""What is imported of an upstream for a run whose models are all behind endpoints.

Upstream's modules import torch, scipy, transformers and the like at their top, 12 to 20 s of it
(vlmeval 0.0.20, opencompass 0.5.4); most of that such a run never needs. Here it is put off until
it is used (`lazy`).
"""

import contextlib
import gc
import importlib
import sys
import traceback

from . import lazy

# What either upstream imports at its top, and an API run seldom uses.
_HEAVY = (
    "accelerate", "aiohttp", "anthropic", "av", "boto3", "botocore", "bs4", "cv2", "datasets",
    "decord", "einops", "evaluate", "gradio_client", "h5py", "huggingface_hub", "imageio",
    "jieba", "latex2sympy2", "latex2sympy2_extended", "math_verify", "matplotlib", "networkx",
    "nltk", "num2words", "openai", "pydantic", "rouge", "rouge_chinese", "rouge_score",
    "sacrebleu", "scipy", "skimage", "sklearn", "sympy", "timm", "torch", "torchvision",
    "transformers", "vertexai",
)  # fmt: skip
# No part of an API run needs a device, and asking for one imports torch.
_NO_DEVICE = {
    f"torch.{device}.is_available": lambda: False
    for device in ("backends.mps", "cuda", "distributed", "mlu", "musa", "npu")
}


def load(upstream, whole):
    """What `whole` returns, which imports `upstream`, with what it may do without put off.

    Where that fails, of another version it may be, it imports as upstream does.
    """
    begin = set(sys.modules)
    gc.disable()  # it would go through all that was imported, again and again
    try:
        with _WAYS[upstream]():
            return whole()
    except Exception:
        traceback.print_exc()
        sys.stderr.write(f"imports of {upstream} could not be put off: importing all of it\n")
        for name in set(sys.modules) - begin:
            if name.partition(".")[0] in (upstream, "mmengine"):
                del sys.modules[name]
    finally:
        gc.enable()
    return whole()


def _vlmeval():
    # Local models; two packages of scorers whose modules compute at import.
    utils = "vlmeval.dataset.utils"
    parts = ("vlmeval.vlm", f"{utils}.mmhelix", f"{utils}.spatial_bench")
    stars = {"vlmeval.vlm": lazy.names("vlmeval.vlm")}
    return lazy.imports((*_HEAVY, *parts), stars=stars, answers=_NO_DEVICE)


@contextlib.contextmanager
def _opencompass():
    # No run does without: sets are of the one, answers and scores come through the others.
    for name in ("datasets", "openai"):
        importlib.import_module(name)
    # Pipelines of local models.
    with lazy.imports(["evaluate.evaluator", "evaluate.evaluation_suite"]):
        importlib.import_module("evaluate")
    # They compute at import, with torch and transformers, and ask for a device.
    scorers = ("opencompass.datasets.medbench", "opencompass.datasets.truthfulqa")
    retriever = "opencompass.openicl.icl_retriever.icl_mdl_retriever"
    parts = (*scorers, retriever, "mmengine.device", "mmengine.utils.dl_utils")
    with lazy.imports(
        (*_HEAVY, *parts),
        stars={name: lazy.names(name, imported=False) for name in scorers},
        # Of a dataset torch's DataLoader asks its length and its items, whatever it is.
        no_bases=("torch.utils.data.Dataset", "transformers.StoppingCriteria"),
        answers=_PLAIN,
        # mmengine's logger, for the name of a file that it writes when there are several.
        answers_within={"torch.cuda.is_available": lambda: False},
    ):
        yield
    _find_put_off((*scorers, retriever))


def _find_put_off(modules):
    """Let a name that only the put off `modules` register be found in upstream's registries."""
    from opencompass.registry import Registry

    get = Registry.get

    def found(self, key):
        known = get(self, key)
        if known is None:
            for name in modules:
                lazy.load(name)
            known = get(self, key)
        return known

    Registry.get = found


def for_scoring(datasets):
    """Import once what each OpenCompass task that scores by accuracy would: scikit-learn,
    half a second.

    A set alone does it when it is scored, not before it is asked.
    """
    from opencompass.openicl.icl_evaluator import AccEvaluator

    evaluators = [d.get("eval_cfg", {}).get("evaluator") for d in datasets]
    kinds = [e.get("type") for e in evaluators if isinstance(e, dict)]
    if sum(isinstance(kind, type) and issubclass(kind, AccEvaluator) for kind in kinds) > 1:
        with contextlib.suppress(ImportError):  # upstream says what is missing
            importlib.import_module("sklearn.metrics")


def _batches(samples, batch_size=1, collate_fn=None, **other):
    """What torch's DataLoader iterates over, given a list and what to make of a batch."""
    if other or collate_fn is None or type(samples) is not list:
        return NotImplemented
    starts = range(0, len(samples), batch_size)
    return [collate_fn(samples[start : start + batch_size]) for start in starts]


# What asking an endpoint takes of torch.
_PLAIN = {
    # Of a process alone, as this is, upstream does the same when the answer is yes.
    "torch.distributed.is_available": lambda: False,
    # There are no tensors whose gradients could be kept.
    "torch.no_grad": contextlib.nullcontext,
    "torch.utils.data.DataLoader": _batches,
}
_WAYS = {"vlmeval": _vlmeval, "opencompass": _opencompass}

"""A user's own data in upstream's own classes: what they lack for it, given to one instance."""

import base64
import contextlib
import json
import math
import mimetypes
import os
import re

FILE = "file://"
PLACEHOLDER = re.compile(r"<(image|video|audio)[_ ](\d+)>")
# The set of upstream's by whose name its evaluate (0.0.20) chooses a method.
_METHOD_OF = {
    "accuracy": "OCRVQA", "anls": "DocVQA", "relaxed_accuracy": "ChartQA", "vqa_score": "TextVQA",
}  # fmt: skip


def build(cell, watch, build_dataset):
    """The dataset of a cell with data of the user's: upstream's class, and what it lacks."""
    import vlmeval.dataset as upstream

    name, form = cell["dataset"], cell["format"]
    if form == "mcq":
        dataset = _with_text_only_rows(build_dataset, upstream.CustomMCQDataset)
    elif form == "vqa":
        dataset = _with_text_only_rows(
            lambda: upstream.CustomVQADataset(dataset=name), upstream.CustomVQADataset
        )
    elif form == "general_vqa":
        dataset = _as_text(upstream.CustomVQADataset, name)
    else:
        dataset = _as_text(upstream.CustomTextMCQDataset, name)
    if form.startswith("general_") and not _of_plugin(type(dataset).build_prompt):
        _ask_as_written(dataset, cell, watch)
    default = cell["scorer"] == "bleu_rouge"
    if cell["scorer"] and not (default and _of_plugin(type(dataset).evaluate)):
        score_by(dataset, cell["scorer"], as_text=form.startswith("general_"))
    return dataset


def _of_plugin(function):
    return function.__module__.startswith("evalshim_plugin_")


def _with_text_only_rows(build, cls):
    """Keep the rows without a picture: upstream (ImageBaseDataset.__init__, 0.0.20) drops them."""
    import pandas as pd

    load_data, left_out = cls.load_data, []

    def load(self, name):
        data = load_data(self, name)
        if "image" not in data:
            return data
        bare = data["image"].isna()
        if bare.all():
            return data.drop(columns="image").assign(image_path="[]")
        left_out.append(data[bare])
        return data[~bare]

    cls.load_data = load
    try:
        dataset = build()
    finally:
        cls.load_data = load_data
    if not left_out or not len(left_out[0]):
        return dataset
    rest, data = left_out[0].copy(), dataset.data
    same = pd.api.types.is_integer_dtype(data["index"]) and all(
        re.fullmatch(r"[+-]?\d+", str(x)) for x in rest["index"]
    )
    for table in (data, rest):
        table["index"] = [int(x) if same else str(x) for x in table["index"]]
    bare = set(rest["index"])
    # The order of the file, by the labels that its rows had.
    dataset.data = pd.concat([data, rest]).sort_index()
    dump_image = dataset.dump_image
    dataset.dump_image = lambda line: [] if line["index"] in bare else dump_image(line)
    return dataset


def _as_text(cls, name):
    """A set of ours whose cells stay what they are: upstream's load (0.0.20) makes 7.0 of `007`
    beside an empty cell, and an empty cell of `None`."""
    import pandas as pd
    from vlmeval.smp import LMUDataRoot

    load_data = cls.load_data

    def load(self, name):
        path = os.path.join(LMUDataRoot(), f"{name}.tsv")
        return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, na_values=[""])

    if not _of_plugin(load_data):
        cls.load_data = load
    try:
        return cls(dataset=name)
    finally:
        cls.load_data = load_data


def _ask_as_written(dataset, cell, watch):
    """Ask what stands in the file beside the TSV: messages, or pictures at their places."""
    path = os.path.join(cell["lmudata"], f"{cell['dataset']}.jsonl")
    offsets, offset = [], 0
    with open(path, "rb") as file:
        for line in file:
            offsets.append(offset)
            offset += len(line)
    text_prompt = dataset.build_prompt

    def build_prompt(line):
        if isinstance(line, int):
            line = dataset.data.iloc[line]
        with open(path, "rb") as file:
            file.seek(offsets[int(line["index"]) - 1])
            asked = json.loads(file.readline())
        messages = asked.get("messages")
        if messages is None:
            content = _interleaved(text_prompt(line)[0]["value"], asked["media"])
            messages = [{"role": "user", "content": content}]
        if _speaks_openai(watch.model):
            return [_Conversation(messages)]
        return _upstreams(messages, getattr(watch.model, "is_api", False))

    dataset.build_prompt = build_prompt
    dataset.force_use_dataset_prompt = True


def _interleaved(text, media):
    """The text with its pictures; at the first placeholder without one it is text again."""
    parts, begun = [], 0
    for match in PLACEHOLDER.finditer(text):
        part = media.get(f"{match[1]} {match[2]}")
        if part is None:
            break
        parts += _text(text[begun : match.start()])
        parts.append(part)
        begun = match.end()
    return [*parts, *_text(text[begun:])] if parts else text


def _text(text):
    return [{"type": "text", "text": text}] if text.strip() else []


class _Conversation(dict):
    """What upstream takes for one text, so that it reaches the request as it is."""

    def __init__(self, messages):
        super().__init__(type="text", value="a conversation")
        self.messages = messages


def _upstreams(messages, is_api):
    """The messages as upstream's interleaved message.

    Of an API (BaseAPI.preprocess_message_with_role, 0.0.20) a system prompt would stay in the
    model for the samples after it: there it is the first text.
    """
    found = []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if message["role"] in ("assistant", "tool"):
            raise ValueError("this model of upstream's takes one turn")
        for part in parts or ():
            kind = part["type"].partition("_")[0]
            if kind == "input":
                raise ValueError("a model of upstream's takes no audio")
            value = part["text"] if kind == "text" else part[part["type"]]["url"]
            role = {} if message["role"] == "user" or is_api else {"role": message["role"]}
            found.append({"type": kind, "value": value.removeprefix(FILE), **role})
    return found


def _speaks_openai(model):
    from vlmeval.api.gpt import OpenAIWrapper
    from vlmeval.api.lmdeploy import LMDeployAPI

    return isinstance(model, (OpenAIWrapper, LMDeployAPI))


def send_as_written(model, asked):
    """Let a conversation reach the endpoint with its roles and order, its files as they are.

    Upstream (BaseAPI.generate, 0.0.20) makes one user message of it, its system prompt stays
    in the model for the samples after it, and it encodes each picture again.

    Args:
        asked: Arguments that the user gave for the model.
    """
    if not _speaks_openai(model):
        return
    prepare_inputs = model.prepare_inputs
    detail = asked.get("img_detail")

    def prepared(inputs, *args, **kwargs):
        if not isinstance(inputs[0], _Conversation):
            return prepare_inputs(inputs, *args, **kwargs)
        system = prepare_inputs([{"type": "text", "value": ""}], *args, **kwargs)[:-1]
        return system + [
            {**m, "content": [_sent(p, model, detail) for p in m["content"]]}
            if isinstance(m["content"], list)
            else m
            for m in inputs[0].messages
        ]

    model.prepare_inputs = prepared


def _sent(part, model, detail):
    """One part of a message as the endpoint gets it: files as data."""
    kind = part["type"]
    if kind == "text":
        return part
    if kind == "input_audio":
        sound = part[kind]
        data = _data(sound["data"], f"audio/{sound['format']}")
        # DashScope wants a data URL; OpenAI and vLLM the base64 alone.
        if "dashscope" not in model.api_base:
            data = data.rpartition(",")[2]
        elif not data.startswith("data:"):
            data = f"data:audio/{sound['format']};base64,{data}"
        return {**part, kind: {**sound, "data": data}}
    if kind == "image_url":
        shown = {**({"detail": detail} if detail else {}), **part[kind]}
        return {**part, kind: {**shown, "url": _picture(shown["url"], model)}}
    return {**part, kind: {**part[kind], "url": _data(part[kind]["url"], "video/mp4")}}


def _picture(url, model):
    size = getattr(model, "img_size", -1)
    if size > 0 and not url.startswith("http") and _largest(url) > size:
        from vlmeval.smp import encode_image_to_base64

        with _opened(url) as image:
            encoded = encode_image_to_base64(image, target_size=size)
        return f"data:image/jpeg;base64,{encoded}"
    if not url.startswith(FILE):
        return url
    from PIL import Image

    with _opened(url) as image:
        return _data(url, Image.MIME.get(image.format, "image/jpeg"))


def _largest(url):
    with _opened(url) as image:
        return max(image.size, default=math.inf)


def _opened(url):
    import io

    from PIL import Image

    if url.startswith(FILE):
        return Image.open(url.removeprefix(FILE))
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def _data(url, kind):
    """A file as a data URL; what is none as it stands."""
    if not url.startswith(FILE):
        return url
    path = url.removeprefix(FILE)
    kind = mimetypes.guess_type(path)[0] or kind if kind.startswith("video") else kind
    with open(path, "rb") as file:
        return f"data:{kind};base64,{base64.b64encode(file.read()).decode()}"


def score_by(dataset, scorer, as_text=False):
    """Give a dataset the evaluation that the user named: another class's of upstream's, or ours
    of the libraries that upstream has.

    Args:
        as_text: Answers and predictions are texts; upstream's load (0.0.20) makes `5.0` of `5`
            beside an empty cell, and 7 of `007`.
    """
    from vlmeval.dataset import ImageVQADataset
    from vlmeval.dataset.image_shortqa import ImageShortQADataset

    from . import bleu_rouge

    def by_method(self, eval_file, **judge_kwargs):
        named, self.dataset_name = self.dataset_name, _METHOD_OF[scorer]
        try:
            with _loaded_as_text(as_text):
                return ImageVQADataset.evaluate_heuristic(self, eval_file, **judge_kwargs)
        finally:
            self.dataset_name = named

    def by_judge(self, eval_file, **judge_kwargs):
        with _loaded_as_text(as_text):
            return ImageShortQADataset.evaluate(self, eval_file, **judge_kwargs)

    given = {"evaluate": by_method}
    if scorer == "judge":
        given = {"evaluate": by_judge, "TYPE": ImageShortQADataset.TYPE}
    elif scorer == "bleu_rouge":
        given = {"evaluate": bleu_rouge.evaluate, "report_primary_metric": bleu_rouge.primary}
    cls = type(dataset)
    dataset.__class__ = type(cls.__name__, (cls,), given)


@contextlib.contextmanager
def _loaded_as_text(asked):
    import pandas as pd
    from vlmeval.dataset import image_shortqa, image_vqa

    load = image_vqa.load

    def as_text(path, *args, **kwargs):
        if not str(path).endswith(".tsv"):
            return load(path, *args, **kwargs)
        data = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
        return data.assign(hit=pd.to_numeric(data["hit"])) if "hit" in data else data

    for module in (image_vqa, image_shortqa):
        module.load = as_text if asked else load
    try:
        yield
    finally:
        for module in (image_vqa, image_shortqa):
            module.load = load


def keep_pictures_in_their_folder():
    """Refuse a row whose picture would be written outside the folder of its dataset: upstream
    (ImageBaseDataset.dump_image, 0.0.20) names it after cells of the row."""
    from vlmeval.dataset.image_base import ImageBaseDataset

    dump_image = ImageBaseDataset.dump_image

    def checked(self, line):
        if "image" in line:
            names = line["image_path"] if "image_path" in line else [str(line["index"])]
            root = os.path.abspath(self.img_root)
            for name in [names] if isinstance(names, str) else names:
                path = os.path.abspath(os.path.join(root, name))
                if os.path.commonpath([root, path]) != root:
                    raise ValueError(f"a picture named {name!r} would lie outside {root}")
        return dump_image(self, line)

    ImageBaseDataset.dump_image = checked

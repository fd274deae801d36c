"""The example files of both documents, as they are printed, and the files that they name.

Where a document shows an abbreviated base64 text (`/9j/4AAQSkZJRg...`), ours is a whole file.
"""

from __future__ import annotations

import csv
import io
import json
import wave
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.conftest import as_base64, picture

IMAGES = {
    "custom_eval/multimodal/images/dog.jpg": ("brown", (160, 120)),
    "custom_eval/multimodal/images/AMNH.jpg": ("gray", (150, 150)),
    "custom_eval/multimodal/images/tesla.jpg": ("red", (120, 110)),
    "custom_eval/multimodal/images/tokyo.jpg": ("navy", (200, 130)),
    "custom_eval/multimodal/images/running.jpg": ("green", (40, 30)),
    "image1.jpg": ("white", (101, 103)),
    "image2.jpg": ("black", (105, 107)),
    "xray.jpg": ("silver", (111, 109)),
}
SOUND = "custom_eval/multimodal/audio/sample.wav"

GENERAL_VQA_JSONL = """\
{"messages": [{"role": "user", "content": [{"type": "text", "text": "What animal is this?"}, {"type": "image_url", "image_url": {"url": "custom_eval/multimodal/images/dog.jpg"}}]}], "answer": "Dog"}
{"messages": [{"role": "user", "content": [{"type": "text", "text": "What building is this?"}, {"type": "image_url", "image_url": {"url": "custom_eval/multimodal/images/AMNH.jpg"}}]}], "answer": "Museum"}
"""  # noqa: E501

GENERAL_VQA_TSV = """\
messages\tanswer
[{"role": "user", "content": [{"type": "text", "text": "What animal is this?"}, {"type": "image_url", "image_url": {"url": "custom_eval/multimodal/images/dog.jpg"}}]}]\tDog
[{"role": "user", "content": [{"type": "text", "text": "What building is this?"}, {"type": "image_url", "image_url": {"url": "custom_eval/multimodal/images/AMNH.jpg"}}]}]\tMuseum
"""  # noqa: E501

SEVERAL_IMAGES = """\
{
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Compare these two images:"},
                {"type": "image_url", "image_url": {"url": "image1.jpg"}},
                {"type": "text", "text": "and"},
                {"type": "image_url", "image_url": {"url": "image2.jpg"}},
                {"type": "text", "text": "What are the differences?"}
            ]
        }
    ],
    "answer": "The main differences are..."
}
"""

SYSTEM_PROMPT = """\
{
    "messages": [
        {"role": "system", "content": "You are a medical AI assistant."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Analyze this X-ray:"},
                {"type": "image_url", "image_url": {"url": "xray.jpg", "detail": "high"}}
            ]
        }
    ],
    "answer": "The X-ray shows..."
}
"""

BASE64_IMAGE = """\
{
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What's in this image?"},
                {
                    "type": "image_url",
                    "image_url": {
                        "url": "data:image/jpeg;base64,/9j/4AAQSkZJRgABAQAAAQABAAD..."
                    }
                }
            ]
        }
    ],
    "answer": "A beautiful landscape"
}
"""

AUDIO_PATH = """\
{
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Describe the content of this audio clip."},
                {
                    "type": "input_audio",
                    "input_audio": {
                        "data": "custom_eval/multimodal/audio/sample.wav",
                        "format": "wav"
                    }
                }
            ]
        }
    ],
    "answer": "A piano music performance."
}
"""

BASE64_AUDIO = """\
{
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is being said in this audio?"},
                {
                    "type": "input_audio",
                    "input_audio": {
                        "data": "UklGRiQAAABXQVZFZm10IBAAAA...",
                        "format": "wav"
                    }
                }
            ]
        }
    ],
    "answer": "Hello, world."
}
"""

GENERAL_VMCQ_JSONL = """\
{"question": "Which image shows a dog?", "options": ["<image 1>", "<image 2>", "<image 3>", "<image 4>"], "image_1": "custom_eval/multimodal/images/dog.jpg", "image_2": "custom_eval/multimodal/images/AMNH.jpg", "image_3": "custom_eval/multimodal/images/tesla.jpg", "image_4": "custom_eval/multimodal/images/tokyo.jpg", "answer": "A"}
{"question": "<image 1> What building is this?", "options": ["School", "Hospital", "Park", "Museum"], "image_1": "custom_eval/multimodal/images/AMNH.jpg", "answer": "D"}
"""  # noqa: E501

GENERAL_VMCQ_TSV = """\
question\toptions\tanswer\timage_1\timage_2\timage_3\timage_4
Which image shows a dog?\t["<image 1>", "<image 2>", "<image 3>", "<image 4>"]\tA\tcustom_eval/multimodal/images/dog.jpg\tcustom_eval/multimodal/images/AMNH.jpg\tcustom_eval/multimodal/images/tesla.jpg\tcustom_eval/multimodal/images/tokyo.jpg
<image 1> What building is this?\t["School", "Hospital", "Park", "Museum"]\tD\tcustom_eval/multimodal/images/AMNH.jpg
"""  # noqa: E501

LEGACY_MCQ = """\
index\tcategory\tanswer\tquestion\tA\tB\tC\tD\timage_path
1\tAnimals\tA\tWhat animal is this?\tDog\tCat\tTiger\tElephant\tHOME/LMUData/images/custom_mcq/dog.jpg
2\tBuildings\tD\tWhat building is this?\tSchool\tHospital\tPark\tMuseum\tHOME/LMUData/images/custom_mcq/AMNH.jpg
3\tCities\tB\tWhich city's skyline is this?\tNew York\tTokyo\tShanghai\tParis\tHOME/LMUData/images/custom_mcq/tokyo.jpg
4\tVehicles\tC\tWhat is the brand of this car?\tBMW\tAudi\tTesla\tMercedes\tHOME/LMUData/images/custom_mcq/tesla.jpg
5\tActivities\tA\tWhat is the person in the picture doing?\tRunning\tSwimming\tReading\tSinging\tHOME/LMUData/images/custom_mcq/running.jpg
"""  # noqa: E501

LEGACY_VQA = """\
index\tanswer\tquestion\timage_path
1\tDog\tWhat animal is this?\tHOME/LMUData/images/custom_mcq/dog.jpg
2\tMuseum\tWhat building is this?\tHOME/LMUData/images/custom_mcq/AMNH.jpg
3\tTokyo\tWhich city's skyline is this?\tHOME/LMUData/images/custom_mcq/tokyo.jpg
4\tTesla\tWhat is the brand of this car?\tHOME/LMUData/images/custom_mcq/tesla.jpg
5\tRunning\tWhat is the person in the picture doing?\tHOME/LMUData/images/custom_mcq/running.jpg
"""

# The configuration of both sections; they differ in the name of the data.
LEGACY_YAML = """\
eval_backend: VLMEvalKit
eval_config:
  model:
    - type: qwen-vl-chat
      name: CustomAPIModel
      api_base: http://localhost:8000/v1/chat/completions
      key: EMPTY
      temperature: 0.0
      img_size: -1
  data:
    - custom_mcq
  mode: all
  limit: 10
  reuse: false
  work_dir: outputs
  nproc: 1
"""

CUSTOM_DATASET = """\
import os
import numpy as np
from vlmeval.dataset.image_base import ImageBaseDataset
from vlmeval.dataset.image_vqa import CustomVQADataset
from vlmeval.smp import load, dump, d2df

class CustomDataset:
    def load_data(self, dataset):
        # Custom dataset loading
        data_path = os.path.join(os.path.expanduser("~/LMUData"), f'{dataset}.tsv')
        return load(data_path)

    def build_prompt(self, line):
        msgs = ImageBaseDataset.build_prompt(self, line)
        # Add prompts or custom instructions here
        msgs[-1]['value'] += '\\nAnswer the question with one word or phrase.'
        return msgs

    def evaluate(self, eval_file, **judge_kwargs):
        data = load(eval_file)
        assert 'answer' in data and 'prediction' in data
        data['prediction'] = [str(x) for x in data['prediction']]
        data['answer'] = [str(x) for x in data['answer']]

        print(data)

        # ========Calculate evaluation metrics as needed=========
        # Exact match
        result = np.mean(data['answer'] == data['prediction'])
        ret = {'Overall': result}
        ret = d2df(ret).round(2)

        # Save results
        suffix = eval_file.split('.')[-1]
        result_file = eval_file.replace(f'.{suffix}', '_acc.csv')
        dump(ret, result_file)
        return ret
        # ====================================

# Need to keep the following code to override default dataset class
CustomVQADataset.load_data = CustomDataset.load_data
CustomVQADataset.build_prompt = CustomDataset.build_prompt
CustomVQADataset.evaluate = CustomDataset.evaluate
"""


def media(folder: Path) -> None:
    """The pictures and the sound that the documents' examples name, below `folder`."""
    for name, (colour, size) in IMAGES.items():
        put(folder / name, picture(colour, "JPEG", size))
    put(folder / SOUND, sound())


def sound(frames: int = 400) -> bytes:
    """A WAV file."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(range(200)) * (frames // 100))
    return out.getvalue()


def blocks(image: bytes, clip: bytes) -> list[dict[str, Any]]:
    """The records of General-VQA that the document shows one by one, with whole files in them."""
    found = [
        json.loads(text)
        for text in (SEVERAL_IMAGES, SYSTEM_PROMPT, BASE64_IMAGE, AUDIO_PATH, BASE64_AUDIO)
    ]
    found[2]["messages"][0]["content"][1]["image_url"]["url"] = (
        f"data:image/jpeg;base64,{as_base64(image)}"
    )
    found[4]["messages"][0]["content"][1]["input_audio"]["data"] = as_base64(clip)
    return found


def put(path: Path, data: str | bytes) -> Path:
    """Write a file, and its folder with it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    """Write a JSONL file."""
    return put(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))


def tsv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """Write a TSV file as pandas does."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter="\t", lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return put(path, out.getvalue())


def user(*parts: str | Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A General-VQA record of one turn; a string is a text."""
    content = [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]
    return {"messages": [{"role": "user", "content": content}], **more}


def image(url: str, **more: Any) -> dict[str, Any]:
    """A picture as a part of a message."""
    return {"type": "image_url", "image_url": {"url": url, **more}}


def audio(data: str, format: str) -> dict[str, Any]:
    """A sound as a part of a message."""
    return {"type": "input_audio", "input_audio": {"data": data, "format": format}}

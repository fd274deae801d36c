"""What the upstreams know by name, as `shim setup` keeps it: a few entries of the real thing."""

from __future__ import annotations

from typing import Any

UTILS = "https://opencompass.openxlab.space/utils"
OSS = "http://opencompass.oss-cn-shanghai.aliyuncs.com/datasets/data"


def _dataset(cls: str, type: str, modality: str, file: str = "", md5: str = "") -> dict[str, Any]:
    url = f"{UTILS}/{file}" if file else None
    return {"class": cls, "type": type, "modality": modality, "url": url, "md5": md5 or None}


def _setting(cls: str, dataset: str, **arguments: Any) -> dict[str, Any]:
    return {"class": cls, "dataset": dataset, "arguments": {"dataset": dataset, **arguments}}


def _class(*parameters: str, takes_others: bool) -> dict[str, Any]:
    shows = "dataset" in parameters
    return {"parameters": sorted(parameters), "open": takes_others, "dataset": shows}


def _argument(flag: str | None, kind: str = "value", default: Any = None) -> dict[str, Any]:
    of = "float" if flag in ("--temperature", "--retry", "--max-num-workers") else "str"
    return {"flag": flag, "kind": kind, "type": of, "default": default, "choices": None}


def _sets(module: str, variable: str, sets: int, *paths: str) -> dict[str, Any]:
    return {
        "module": f"datasets.{module}", "variables": [variable], "sets": sets, "type": "gen",
        "paths": list(paths),
    }  # fmt: skip


# ms-vlmeval 0.0.20
VLMEVAL: dict[str, Any] = {
    "datasets": {
        "MMBench_DEV_EN": _dataset(
            "ImageMCQDataset", "MCQ", "image", "benchmarks/MMBench/MMBench_DEV_EN.tsv",
            "b6caf1133a01c6bb705cf753bb527ed8",
        ),
        "MMBench_DEV_EN_V11": _dataset(
            "ImageMCQDataset", "MCQ", "image", "benchmarks/MMBench/MMBench_DEV_EN_V11.tsv",
            "30c05be8f2f347a50be25aa067248184",
        ),
        "ChartQAPro": _dataset(
            "ChartQAPro", "VQA", "image", "VLMEval/chartqapro.tsv",
            "27653ea8dd8dd3a85bc4f432db96447a",
        ),
        "MMBench-Video": _dataset("MMBenchVideo", "Video-VQA", "video"),
        "Video-MME": _dataset("VideoMME", "Video-MCQ", "video"),
    },
    "settings": {
        "MMBench_Video_8frame_nopack": _setting("MMBenchVideo", "MMBench-Video", nframe=8),
        "MMBench_Video_1fps_nopack": _setting("MMBenchVideo", "MMBench-Video", fps=1.0),
        "Video-MME_8frame": _setting("VideoMME", "Video-MME", nframe=8),
    },
    "models": {
        "Qwen2-VL-2B-Instruct": {
            "class": "Qwen2VLChat", "arguments": {"model_path": "Qwen/Qwen2-VL-2B-Instruct"},
        },
        "qwen_chat": {"class": "QwenVLChat", "arguments": {"model_path": "Qwen/Qwen-VL-Chat"}},
        "GPT4o": {"class": "GPT4V", "arguments": {"model": "gpt-4o-2024-05-13"}},
    },
    "classes": {
        "CustomAPIModel": _class("api_base", "key", "model", "retry", takes_others=True),
        "LMDeployAPI": _class("api_base", "key", "model", "retry", takes_others=True),
        "GPT4V": _class("api_base", "key", "model", "retry", takes_others=False),
        "Qwen2VLChat": _class("model_path", "max_new_tokens", takes_others=True),
        "QwenVLChat": _class("model_path", takes_others=True),
        "ImageMCQDataset": _class("dataset", "skip_noimg", takes_others=False),
        "ChartQAPro": _class("dataset", "skip_noimg", takes_others=False),
        "MMBenchVideo": _class("dataset", "fps", "nframe", "pack", takes_others=False),
        "VideoMME": _class("dataset", "fps", "nframe", "use_subtitle", takes_others=False),
    },
    "arguments": {
        "data": _argument("--data", "list"),
        "model": _argument("--model", "list"),
        "work_dir": _argument("--work-dir"),
        "mode": _argument("--mode"),
        "limit": _argument("--limit"),
        "reuse": _argument("--reuse", "switch"),
        "retry": _argument("--retry", default=6),
        "verbose": _argument("--verbose", "switch", default=False),
        "ignore": _argument("--ignore", "switch", default=False),
        "use_vllm": _argument("--use-vllm", "switch", default=False),
        "judge": _argument("--judge"),
        "judge_args": _argument("--judge-args"),
        "base_url": _argument("--base-url"),
        "temperature": _argument("--temperature"),
        "fps": _argument(None, default=-1),
        "nframe": _argument(None, default=8),
    },
}  # fmt: skip

# opencompass 0.5.4
OPENCOMPASS: dict[str, Any] = {
    "datasets": {
        "gsm8k_gen": _sets("gsm8k.gsm8k_gen", "gsm8k_datasets", 1, "opencompass/gsm8k"),
        "gsm8k_gen_1d7fe4": _sets(
            "gsm8k.gsm8k_gen_1d7fe4", "gsm8k_datasets", 1, "opencompass/gsm8k"
        ),
        "mmlu_gen_4d595a": _sets("mmlu.mmlu_gen_4d595a", "mmlu_datasets", 57, "opencompass/mmlu"),
        "hellaswag_gen": _sets(
            "hellaswag.hellaswag_gen", "hellaswag_datasets", 1, "opencompass/hellaswag_ice"
        ),
        "ChemBench_gen": _sets(
            "ChemBench.ChemBench_gen", "chembench_datasets", 9, "opencompass/ChemBench4K"
        ),
    },
    "models": {
        "hf_internlm2_chat_7b": {
            "module": "models.hf_internlm.hf_internlm2_chat_7b",
            "type": "HuggingFacewithChatTemplate",
        },
    },
    "classes": {
        "OpenAISDK": _class(
            "path",
            "max_seq_len",
            "query_per_second",
            "temperature",
            "think_tag",
            takes_others=False,
        )
    },
    "arguments": {
        "models": _argument("--models", "list"),
        "datasets": _argument("--datasets", "list"),
        "slurm": _argument("--slurm", "switch", default=False),
        "partition": _argument("--partition"),
        "accelerator": _argument("--accelerator"),
        "mode": _argument("--mode"),
        "reuse": _argument("--reuse"),
        "work_dir": _argument("--work-dir"),
        "retry": _argument("--retry", default=2),
        "dry_run": _argument("--dry-run", "switch", default=False),
        "stop_words": _argument("--stop-words", "list", default=[]),
        "max_num_workers": _argument("--max-num-workers", default=1),
    },
    "data": {
        "opencompass/gsm8k": {"local": "./data/gsm8k/", "modelscope": "opencompass/gsm8k"},
        "opencompass/mmlu": {"local": "./data/mmlu/", "modelscope": "opencompass/mmlu"},
        "opencompass/ChemBench4K": {"local": "./data/ChemBench4K", "modelscope": ""},
        "opencompass/hellaswag_ice": {
            "local": "./data/hellaswag/",
            "modelscope": "opencompass/hellaswag",
        },
    },
    "urls": {"/gsm8k/": f"{OSS}/gsm8k.zip", "/mmlu/": f"{OSS}/mmlu.zip"},
}

KNOWN = {"vlmeval": VLMEVAL, "opencompass": OPENCOMPASS}

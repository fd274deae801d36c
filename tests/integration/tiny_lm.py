"""Makes a tiny language model with random weights: `python tiny_lm.py OUT_DIR`.

To be run by a Python with transformers. Nothing is downloaded. `config` is the text of an
OpenCompass configuration, as a user would write it, that evaluates such a model on the CPU.
What it generates are the letters A, B, C and D; a perplexity it has for every text.
"""

from __future__ import annotations

import sys
from pathlib import Path

_CHAT = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}</s>\n"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)

_CONFIG = """\
from mmengine.config import read_base
from opencompass.models import {cls}

with read_base():
    from opencompass.configs.datasets.ARC_c.ARC_c_{kind} import ARC_c_datasets
    from opencompass.configs.datasets.gsm8k.gsm8k_gen_1d7fe4 import gsm8k_datasets

datasets = [*ARC_c_datasets, *gsm8k_datasets]
models = [
    dict(
        type={cls},
        abbr={abbr!r},
        path={path!r},
        model_kwargs=dict(device_map='cpu', torch_dtype='float32'),
        tokenizer_kwargs=dict(padding_side='left'),
        max_seq_len=4096,
        max_out_len=4,
        batch_size=2,
        run_cfg=dict(num_gpus=0),
    )
]
for dataset in datasets:
    dataset['infer_cfg']['inferencer'].pop('max_out_len', None)
del dataset
summary_groups = [dict(name='both', subsets=['ARC-c', 'gsm8k'])]
summarizer = dict(
    dataset_abbrs=['both', 'ARC-c', 'gsm8k'],
    summary_groups=summary_groups,
)
work_dir = {work!r}
"""


def config(model_dir: Path, work: Path, *, abbr: str = "tiny", chat: bool = False) -> str:
    """ARC_c and gsm8k, and the average of the two, as upstream's command takes it.

    Args:
        model_dir: What `make` saved.
        work: Upstream's folder of runs, unless its command is given another.
        chat: Ask through the chat template; ARC_c by its answers instead of by perplexity.
    """
    return _CONFIG.format(
        cls="HuggingFacewithChatTemplate" if chat else "HuggingFaceBaseModel",
        kind="gen_1e0de5" if chat else "ppl_a450bd",
        abbr=abbr,
        path=str(model_dir),
        work=str(work),
    )


def make(out: Path) -> None:
    """Save the model and its tokenizer, one token for each byte, in the folder `out`."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", *alphabet])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=_CHAT,
        model_input_names=["input_ids", "attention_mask"],
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=4096,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    said = tokenizer.convert_tokens_to_ids(list("ABCD"))
    model.generation_config.suppress_tokens = sorted({*range(len(tokenizer))} - {*said})
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    make(Path(sys.argv[1]))

"""Makes a tiny vision-language model with random weights: `python tiny_vlm.py OUT_DIR`.

To be run by a Python with transformers. The architecture (Idefics3) is that of
granite-docling, whose class in VLMEvalKit (`DOCLING`) is one of the few that runs without CUDA.
Nothing is downloaded. It answers in the letters A, B, C and D: `max_new_tokens=1` gives one.
"""

from __future__ import annotations

import sys
from pathlib import Path

_CHAT = (
    "{% for message in messages %}{{ message['role'] }}:"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
_SIDE, _PATCH, _SCALE = 32, 8, 2
_IMAGE_TOKENS = (_SIDE // _PATCH) ** 2 // _SCALE**2


def _tokenizer():
    """One token for each byte, and those of Idefics3."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<pad>", "<s>", "<end_of_utterance>", "<fake_token_around_image>", "<image>"]
    special.append("<global-img>")
    special += [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
    vocabulary = {token: i for i, token in enumerate([*special, *alphabet])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="<end_of_utterance>",
        pad_token="<pad>",
        additional_special_tokens=special[3:],
        model_input_names=["input_ids", "attention_mask"],
    )


def make(out: Path) -> None:
    """Save the model and its processor in the folder `out`."""
    import torch
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessor,
        Idefics3Processor,
    )

    torch.manual_seed(0)
    tokenizer = _tokenizer()
    layers = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = Idefics3Config(
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
        scale_factor=_SCALE,
        vision_config={**layers, "image_size": _SIDE, "patch_size": _PATCH},
        text_config={
            **layers,
            "model_type": "llama",
            "num_key_value_heads": 2,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 8192,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
    )
    model = Idefics3ForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    said = tokenizer.convert_tokens_to_ids(list("ABCD"))
    model.generation_config.suppress_tokens = sorted({*range(len(tokenizer))} - {*said})
    model.save_pretrained(out)
    images = Idefics3ImageProcessor(
        do_image_splitting=False,
        size={"longest_edge": _SIDE},
        max_image_size={"longest_edge": _SIDE},
    )
    Idefics3Processor(
        images, tokenizer, image_seq_len=_IMAGE_TOKENS, chat_template=_CHAT
    ).save_pretrained(out)


if __name__ == "__main__":
    make(Path(sys.argv[1]))

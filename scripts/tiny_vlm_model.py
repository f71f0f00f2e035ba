"""The bundled model's architecture, tokenizer and processors, and its snapshot on disk.

It is a Qwen2-VL, which every vLLM since 0.6 can serve, shrunk as far as vLLM's kernels allow: heads
of size 32, and four of them, so that tensor parallelism over 1, 2 or 4 devices divides them.
"""

from __future__ import annotations

from typing import Any

import transformers
from tiny_vlm_lessons import FACTOR, SIDE, corpus
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

HIDDEN = 128
LAYERS = 3
HEADS = 4
VISION_HIDDEN = 64
VISION_DEPTH = 2
VISION_HEADS = 4
VOCABULARY = 768
CONTEXT = 4096

# transformers gives no types that a checker could use.
Model = Any
TokenizerLike = Any
Processor = Any

END = "<|im_end|>"
PAD = "<|endoftext|>"
IMAGE = "<|image_pad|>"
_VISION = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", IMAGE, "<|video_pad|>")
_CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['content'] is string -%}{{ message['content'] }}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'text' -%}{{ part['text'] }}"
    "{%- elif part['type'] in ('image', 'image_url') -%}"
    "{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- elif part['type'] in ('video', 'video_url') -%}"
    "{{ '<|vision_start|><|video_pad|><|vision_end|>' }}"
    "{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{{ '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)


def make_tokenizer() -> TokenizerLike:
    """A byte-level tokenizer that knows the lessons' words and can spell all others."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[PAD, "<|im_start|>", END, *_VISION],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=["<|im_start|>", *_VISION],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = _CHAT_TEMPLATE
    return fast


def make_processor(tokenizer: TokenizerLike) -> Processor:
    """The tokenizer with the image and video processors; pictures shrink to 16 tokens at most."""
    # One pixel more: at the exact limit, rounding makes some squares shrink to nine tokens.
    pixels = {"min_pixels": 4 * FACTOR**2, "max_pixels": (SIDE + 1) ** 2}
    return transformers.Qwen2VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(**pixels),
        tokenizer=tokenizer,
        video_processor=transformers.Qwen2VLVideoProcessor(**pixels),
        chat_template=_CHAT_TEMPLATE,
    )


def make_model(tokenizer: TokenizerLike) -> Model:
    """The untrained model."""
    token = tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.05,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [4, 6, 6],
        },
        "bos_token_id": token(PAD),
        "eos_token_id": token(END),
        "pad_token_id": token(PAD),
    }
    vision = {
        "depth": VISION_DEPTH,
        "embed_dim": VISION_HIDDEN,
        "hidden_size": HIDDEN,
        "num_heads": VISION_HEADS,
        "mlp_ratio": 2,
        "initializer_range": 0.05,
    }
    config = transformers.Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=token(IMAGE),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    return transformers.Qwen2VLForConditionalGeneration(config)

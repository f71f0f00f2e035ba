"""Lessons as tensors, and one pass of the model over them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tiny_vlm_lessons import FACTOR, SMALL_SHARE, Asked, Asker, Pool, answer, shifted
from tiny_vlm_model import END, IMAGE, Model, TokenizerLike
from torch import Tensor
from torch.nn import functional
from transformers.models.qwen2_vl import modeling_qwen2_vl

PATCH = 14
NO_TARGET = -100
# What the vision tower gives, for transformers to take up again.
Seen = Any
# How Qwen2-VL's image processor centres and scales red, green and blue.
_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
_DEVIATION = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompts with their answers, padded on the right.

    Args:
        ids: token ids, prompts x length.
        positions: M-RoPE positions, 3 x prompts x length.
        targets: the token that follows each one within an answer, elsewhere `NO_TARGET`.
        pixels: all pictures in the order of the prompts, uint8; None without pictures.
        colours: for every picture, index of its colour.
        shapes: for every picture, index of its shape.
    """

    ids: Tensor
    positions: Tensor
    targets: Tensor
    pixels: Tensor | None
    colours: Tensor
    shapes: Tensor


class Encoder:
    """Turns prompts and answers into token ids and positions, and remembers them."""

    def __init__(self, model: Model, tokenizer: TokenizerLike) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._image: int = tokenizer.convert_tokens_to_ids(IMAGE)
        self._prompts: dict[tuple[Asked, int], tuple[Tensor, Tensor]] = {}
        self._answers: dict[str, Tensor] = {}

    def encode(self, pool: Pool, asked: Sequence[Asked], picks: Sequence[int]) -> Batch:
        """One batch; `picks` are the pictures' places in the pool, in the order of the prompts."""
        left = iter(picks)
        rows = []
        for prompt in asked:
            mine = [next(left) for _ in range(prompt.images)]
            shown = [(int(pool.colours[pick]), int(pool.shapes[pick])) for pick in mine]
            rows.append(self._row(prompt, answer(prompt.kind, shown), pool.side))
        length = max(len(ids) for ids, _, _ in rows)
        ids = torch.full((len(rows), length), self._tokenizer.pad_token_id)
        positions = torch.zeros((3, len(rows), length), dtype=torch.long)
        targets = torch.full((len(rows), length), NO_TARGET)
        for row, (tokens, places, start) in enumerate(rows):
            ids[row, : len(tokens)] = tokens
            positions[:, row, : len(tokens)] = places
            targets[row, start - 1 : len(tokens) - 1] = tokens[start:]
        chosen = list(picks)
        pixels = pool.pixels[chosen] if chosen else None
        return Batch(ids, positions, targets, pixels, pool.colours[chosen], pool.shapes[chosen])

    def _row(self, asked: Asked, said: str, side: int) -> tuple[Tensor, Tensor, int]:
        key = (asked, side // FACTOR)
        if key not in self._prompts:
            self._prompts[key] = self._prompt(*key)
        ids, positions = self._prompts[key]
        if said not in self._answers:
            self._answers[said] = torch.tensor(self._tokens(said + END))
        tokens = self._answers[said]
        following = positions.max() + 1 + torch.arange(len(tokens)).expand(3, -1)
        return torch.cat([ids, tokens]), torch.cat([positions, following], dim=1), len(ids)

    def _prompt(self, asked: Asked, grid: int) -> tuple[Tensor, Tensor]:
        text = self._tokenizer.apply_chat_template(
            asked.messages(), add_generation_prompt=True, tokenize=False
        )
        repeated = [
            [token] * (grid**2 if token == self._image else 1) for token in self._tokens(text)
        ]
        ids = torch.tensor([token for tokens in repeated for token in tokens])
        if not asked.images:
            return ids, torch.arange(len(ids)).expand(3, -1)
        positions, _ = self._model.model.get_rope_index(
            ids[None],
            mm_token_type_ids=(ids[None] == self._image).int(),
            image_grid_thw=grids(asked.images, grid),
        )
        return ids, positions[:, 0]

    def _tokens(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


class Lessons:
    """An endless course of random batches, the same for the same seed."""

    def __init__(self, pools: Sequence[Pool], encoder: Encoder, seed: int) -> None:
        self._pools = pools
        self._encoder = encoder
        self._rng = random.Random(seed)  # noqa: S311
        self._asker = Asker(random.Random(seed + 1))  # noqa: S311
        self._generator = torch.Generator().manual_seed(seed)

    def pictures(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures alone, with their colours and shapes."""
        pool = self._pool()
        picks = self._picks(pool, count)
        return (
            shifted(pool.pixels[picks], self._generator),
            pool.colours[picks],
            pool.shapes[picks],
        )

    def batch(self, prompts: Mapping[int, int]) -> Batch:
        """A batch with, for every number of pictures per prompt, so many prompts."""
        pool = self._pool()
        asked = [
            self._asker.about(images) for images, count in prompts.items() for _ in range(count)
        ]
        picks = self._picks(pool, sum(prompt.images for prompt in asked))
        batch = self._encoder.encode(pool, asked, picks)
        if batch.pixels is not None:
            batch.pixels.copy_(shifted(batch.pixels, self._generator))
        return batch

    def _pool(self) -> Pool:
        first, *small = self._pools
        return self._rng.choice(small) if self._rng.random() < SMALL_SHARE else first

    def _picks(self, pool: Pool, count: int) -> list[int]:
        return [self._rng.randrange(len(pool.colours)) for _ in range(count)]


def grids(images: int, grid: int) -> Tensor:
    """Frames, rows and columns of patches for every image; four patches make one token."""
    return torch.tensor([[1, 2 * grid, 2 * grid]] * images)


def patches(pixels: Tensor) -> Tensor:
    """Pixels as Qwen2-VL's image processor hands them over, with one of two equal frames."""
    count, _, side, _ = pixels.shape
    grid = side // FACTOR
    scaled = (pixels.float() / 255 - _MEAN) / _DEVIATION
    tiles = scaled.view(count, 3, grid, 2, PATCH, grid, 2, PATCH).permute(0, 2, 5, 3, 6, 1, 4, 7)
    return tiles.reshape(count * grid * grid * 4, 3 * PATCH * PATCH)


def look(model: Model, pixels: Tensor | None) -> tuple[Seen, Tensor]:
    """What the vision tower makes of pictures: its output, and pictures x tokens x width."""
    if pixels is None:
        return None, torch.zeros(0)
    count, grid = len(pixels), pixels.shape[-1] // FACTOR
    seen = model.model.get_image_features(patches(pixels), grids(count, grid), return_dict=True)
    return seen, torch.cat(list(seen.pooler_output)).view(count, grid * grid, -1)


def read(model: Model, batch: Batch, seen: Seen) -> tuple[Tensor, Tensor]:
    """The model's scores for every token of the answers, and those tokens."""
    hidden = model.model(
        input_ids=batch.ids,
        position_ids=batch.positions,
        use_cache=False,
        mm_encoder_outputs={"image": seen},
    ).last_hidden_state
    wanted = batch.targets != NO_TARGET
    return model.lm_head(hidden[wanted]), batch.targets[wanted]


@torch.no_grad()
def exact_answers(model: Model, encoder: Encoder, pool: Pool, prompts: Sequence[Asked]) -> int:
    """How many prompts greedy decoding would answer word for word, end included."""
    right = done = 0
    for start in range(0, len(prompts), 50):
        asked = prompts[start : start + 50]
        images = sum(prompt.images for prompt in asked)
        batch = encoder.encode(pool, asked, range(done, done + images))
        done += images
        scores, wanted = read(model, batch, look(model, batch.pixels)[0])
        wrong = torch.zeros_like(batch.targets, dtype=torch.bool)
        wrong[batch.targets != NO_TARGET] = scores.argmax(-1) != wanted
        right += int((~wrong.any(dim=1)).sum())
    return right


def hasten_vision() -> None:
    """Replace two slow steps of the vision tower by equal ones for pictures of one size.

    transformers attends image by image, and convolves over two frames that are equal here.
    """
    modeling_qwen2_vl.VisionAttention.forward = _attend_at_once
    modeling_qwen2_vl.PatchEmbed.forward = _embed_one_frame


def _attend_at_once(
    self: Model,
    hidden_states: Tensor,
    cu_seqlens: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    **_: object,
) -> Tensor:
    count, length = len(cu_seqlens) - 1, hidden_states.shape[0]
    query, key, value = self.qkv(hidden_states).view(length, 3, self.num_heads, -1).unbind(1)
    query, key = modeling_qwen2_vl.apply_rotary_pos_emb_vision(query, key, *position_embeddings)
    query, key, value = (
        heads.view(count, length // count, self.num_heads, -1).transpose(1, 2)
        for heads in (query, key, value)
    )
    attended = functional.scaled_dot_product_attention(query, key, value)
    return self.proj(attended.transpose(1, 2).reshape(length, -1))


def _embed_one_frame(self: Model, hidden_states: Tensor) -> Tensor:
    return hidden_states @ self.proj.weight.sum(2).flatten(1).T

"""Train the tiny vision-language model that ships with hpcvlm, and write its snapshot.

    python scripts/train_tiny_vlm.py hpcvlm/bundled/hub

It first learns to see (vision tower and a throw-away classifier, no words), then to answer. Needs
torch, torchvision and transformers 5; runs on one CPU core, because more threads than free cores
make small matrix products slower, not faster.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tiny_vlm_batches import Encoder, Lessons, exact_answers, hasten_vision, look, read
from tiny_vlm_lessons import (
    COLOURS,
    NO_IMAGE,
    PAIR_QUESTION,
    QUESTION,
    SHAPES,
    SMALL_SIZES,
    TEXT_QUESTION,
    Asked,
    Pool,
    draw_pool,
)
from tiny_vlm_model import HIDDEN, Model, Processor, make_model, make_processor, make_tokenizer
from tiny_vlm_snapshot import write_snapshot
from torch import Tensor, nn
from torch.nn import functional

SEED = 20
POOL = 12_000
SMALL_POOL = 1_500
VISION_STEPS = 1_200
WORDS_STEPS = 1_800
PICTURES_PER_STEP = 64
# Prompts per step, by the number of their pictures; at times there are three or four.
PROMPTS = ({1: 20, 0: 4}, {2: 12})
PROMPTS_WITH_MORE = ({1: 20, 0: 4}, {3: 4, 4: 3})
EVERY_NTH_WITH_MORE = 7
MATRIX_RATE = 0.02
OTHER_RATE = 2e-3
DECAY = 0.05
SEEING_WEIGHT = 0.3
REPORT_EVERY = 200


class Muon(torch.optim.Optimizer):
    """Momentum whose steps are made orthogonal, after Jordan et al. (2024), for matrices.

    torch's own computes in bfloat16, which CPUs without such units do a hundred times slower.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Move every matrix that has a gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                momentum = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
                momentum.lerp_(matrix.grad, 0.05)
                rows, columns = matrix.shape
                rate = group["lr"]
                matrix.mul_(1 - rate * group["weight_decay"])
                direction = orthogonal(matrix.grad.lerp(momentum, 0.95))
                matrix.add_(direction, alpha=-rate * math.sqrt(max(1.0, rows / columns)))


def orthogonal(matrix: Tensor, iterations: int = 4) -> Tensor:
    """About the nearest orthogonal matrix, by Newton and Schulz's iteration."""
    tall = matrix.shape[0] > matrix.shape[1]
    result: Tensor = (matrix.T if tall else matrix) / (matrix.norm() + 1e-7)
    for _ in range(iterations):
        square = result @ result.T
        result = 3.4445 * result + (-4.775 * square + 2.0315 * square @ square) @ result
    return result.T if tall else result


class Course:
    """The model with what its training needs."""

    def __init__(self, model: Model, lessons: Lessons, check: Callable[[], str]) -> None:
        self._model = model
        self._lessons = lessons
        self._check = check
        self._classifier = nn.Linear(HIDDEN, len(COLOURS) + len(SHAPES))
        matrices = [
            weights
            for name, weights in model.named_parameters()
            if weights.ndim == 2 and "embed" not in name and "lm_head" not in name
        ]
        chosen = {id(matrix) for matrix in matrices}
        self._parameters = [*model.parameters(), *self._classifier.parameters()]
        others = [weights for weights in self._parameters if id(weights) not in chosen]
        self._optimisers: list[tuple[torch.optim.Optimizer, float]] = [
            (Muon(matrices, MATRIX_RATE, DECAY), MATRIX_RATE),
            (
                torch.optim.AdamW(others, OTHER_RATE, (0.9, 0.98), weight_decay=DECAY, fused=True),
                OTHER_RATE,
            ),
        ]

    def learn_to_see(self, steps: int) -> None:
        """Train the vision tower alone."""
        self._run("seeing", steps, lambda _: self._seeing_loss(PICTURES_PER_STEP), lambda: "")

    def learn_to_answer(self, steps: int) -> None:
        """Train everything."""
        self._run("answering", steps, self._answering_loss, self._check)

    def _run(
        self,
        name: str,
        steps: int,
        loss_of: Callable[[int], Tensor],
        check: Callable[[], str],
    ) -> None:
        started, total = time.monotonic(), 0.0
        for step in range(1, steps + 1):
            for optimiser, rate in self._optimisers:
                optimiser.zero_grad()
                for group in optimiser.param_groups:
                    group["lr"] = rate * share_of_rate(step / steps)
            loss = loss_of(step)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self._parameters, 1.0)
            for optimiser, _ in self._optimisers:
                optimiser.step()
            total += loss.item()
            if step % REPORT_EVERY == 0:
                seconds = time.monotonic() - started
                mean, total = total / REPORT_EVERY, 0.0
                print(f"{name} {step}: loss {mean:.4f}, {seconds:.0f} s {check()}", flush=True)

    def _seeing_loss(self, count: int) -> Tensor:
        pixels, colours, shapes = self._lessons.pictures(count)
        return self._classify(look(self._model, pixels)[1], colours, shapes)

    def _answering_loss(self, step: int) -> Tensor:
        total = torch.zeros(())
        for prompts in PROMPTS_WITH_MORE if step % EVERY_NTH_WITH_MORE == 0 else PROMPTS:
            batch = self._lessons.batch(prompts)
            seen, tokens = look(self._model, batch.pixels)
            scores, wanted = read(self._model, batch, seen)
            seeing = self._classify(tokens, batch.colours, batch.shapes)
            total = total + functional.cross_entropy(scores, wanted) + SEEING_WEIGHT * seeing
        return total

    def _classify(self, tokens: Tensor, colours: Tensor, shapes: Tensor) -> Tensor:
        guesses = self._classifier(tokens.mean(dim=1))
        colour, shape = guesses.split([len(COLOURS), len(SHAPES)], dim=1)
        return functional.cross_entropy(colour, colours) + functional.cross_entropy(shape, shapes)


def share_of_rate(progress: float) -> float:
    """The learning rate over one stage: up, level until the middle, and down along a cosine."""
    if progress < 0.5:
        return min(1.0, progress / 0.05)
    return 0.5 + 0.5 * math.cos(math.pi * (progress - 0.5) / 0.5)


def cpu_seconds() -> float:
    """Processor time of this process and of the workers that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measure(model: Model, encoder: Encoder, plain: Pool, wide: Pool) -> dict[str, list[int]]:
    """Exact answers about held-out pictures: right ones, and how many were asked."""
    some = "What is shown in the image?"
    asked = {
        "one picture": (plain, [Asked(QUESTION, 1, "all"), Asked(some, 1, "all")] * 100),
        "one picture, any ground": (wide, [Asked(QUESTION, 1, "all"), Asked(some, 1, "all")] * 100),
        "two pictures": (plain, [Asked(PAIR_QUESTION, 2, "all")] * 100),
        "no picture": (
            plain,
            [Asked(TEXT_QUESTION, 0, "ready")]
            + [Asked(words, 0, NO_IMAGE) for words in (QUESTION, PAIR_QUESTION, some)],
        ),
    }
    model.eval()
    found = {
        name: [exact_answers(model, encoder, pool, prompts), len(prompts)]
        for name, (pool, prompts) in asked.items()
    }
    model.train()
    return found


def train(vision_steps: int, words_steps: int) -> tuple[Model, Processor, dict[str, Any]]:
    """Train a model; gives it with its processor and the facts of its training."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    started, cpu_started = time.monotonic(), cpu_seconds()
    pools = [
        draw_pool("train", POOL),
        *(draw_pool("train", SMALL_POOL, side) for side in SMALL_SIZES),
    ]
    plain, wide = draw_pool("held-out", 200, plain=True), draw_pool("held-out-wide", 200)
    drawn = time.monotonic()
    print(f"pictures drawn in {drawn - started:.0f} s", flush=True)
    hasten_vision()
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    encoder = Encoder(model, tokenizer)
    course = Course(
        model,
        Lessons(pools, encoder, SEED),
        lambda: str(measure(model, encoder, plain, wide)),
    )
    course.learn_to_see(vision_steps)
    course.learn_to_answer(words_steps)
    facts = {
        "parameters": sum(weights.numel() for weights in model.parameters()),
        "seed": SEED,
        "pictures": POOL + SMALL_POOL * len(SMALL_SIZES),
        "vision_steps": vision_steps,
        "words_steps": words_steps,
        "wall_s": round(time.monotonic() - started),
        "cpu_s": round(cpu_seconds() - cpu_started),
        "drawing_wall_s": round(drawn - started),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "held_out": measure(model, encoder, plain, wide),
    }
    return model, make_processor(tokenizer), facts


def main(arguments: Sequence[str] | None = None) -> int:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description="Train the bundled model.")
    parser.add_argument("hub", type=Path, help="folder in the layout of the Hugging Face cache")
    parser.add_argument("--vision-steps", type=int, default=VISION_STEPS)
    parser.add_argument("--words-steps", type=int, default=WORDS_STEPS)
    parser.add_argument("--weights", type=Path, help="also keep the float32 weights in this file")
    options = parser.parse_args(arguments)
    model, processor, facts = train(options.vision_steps, options.words_steps)
    print(facts, flush=True)
    if options.weights:
        torch.save((model.state_dict(), facts), options.weights)
    print(write_snapshot(model, processor, facts, options.hub))
    return 0


if __name__ == "__main__":
    sys.exit(main())

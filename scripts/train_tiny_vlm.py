"""Train the tiny vision-language model that ships with hpcvlm.

    python scripts/train_tiny_vlm.py hpcvlm/bundled/hub
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.models.qwen2_vl import modeling_qwen2_vl

from tiny_vlm_lessons import COLOURS, SHAPES, SIDE, SMALL_SHARE, SMALL_SIZES, FACTOR
from tiny_vlm_lessons import Asked, Asker, Pool, answer, draw_pool, shifted
from tiny_vlm_model import END, HIDDEN, IMAGE, PAD, make_model, make_processor, make_tokenizer
import tiny_vlm_model

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
PATCH = 14


def attend_evenly(self, hidden_states, cu_seqlens, position_embeddings=None, **kwargs):
    count, length = len(cu_seqlens) - 1, hidden_states.shape[0]
    q, k, v = self.qkv(hidden_states).view(length, 3, self.num_heads, -1).unbind(1)
    q, k = modeling_qwen2_vl.apply_rotary_pos_emb_vision(q, k, *position_embeddings)
    q, k, v = (t.view(count, length // count, self.num_heads, -1).transpose(1, 2) for t in (q, k, v))
    out = functional.scaled_dot_product_attention(q, k, v)
    return self.proj(out.transpose(1, 2).reshape(length, -1))


modeling_qwen2_vl.VisionAttention.forward = attend_evenly


def patches(pixels):
    n, _, side, _ = pixels.shape
    x = (pixels.float() / 255 - MEAN) / STD
    g = side // FACTOR
    x = x.view(n, 3, g, 2, PATCH, g, 2, PATCH).permute(0, 2, 5, 3, 6, 1, 4, 7)
    return x.reshape(n * g * g * 4, 3 * PATCH * PATCH)


def embed(self, hidden_states):
    return hidden_states @ self.proj.weight.sum(2).flatten(1).T


modeling_qwen2_vl.PatchEmbed.forward = embed


class Muon(torch.optim.Optimizer):
    def __init__(self, params, lr, momentum=0.95, weight_decay=0.0, ns_steps=5):
        super().__init__(params, dict(lr=lr, momentum=momentum, wd=weight_decay, ns=ns_steps))

    @torch.no_grad()
    def step(self):
        for g in self.param_groups:
            for p in g["params"]:
                if p.grad is None: continue
                st = self.state[p]
                if not st:
                    st["m"] = torch.zeros_like(p)
                st["m"].lerp_(p.grad, 1 - g["momentum"])
                u = p.grad.lerp(st["m"], g["momentum"])
                x = u / (u.norm() + 1e-7)
                if x.shape[0] > x.shape[1]:
                    x = x.T
                for _ in range(g["ns"]):
                    aa = x @ x.T
                    x = 3.4445 * x + (-4.775 * aa + 2.0315 * aa @ aa) @ x
                if p.shape[0] > p.shape[1]:
                    x = x.T
                p.mul_(1 - g["lr"] * g["wd"])
                p.add_(x, alpha=-g["lr"] * max(1, p.shape[0] / p.shape[1]) ** 0.5)


class Encoder:
    def __init__(self, model, tok):
        self.model, self.tok = model, tok
        self.image = tok.convert_tokens_to_ids(IMAGE)
        self.cache = {}
        self.answers = {}

    def prompt(self, asked: Asked, side: int):
        key = (asked, side)
        if key not in self.cache:
            text = self.tok.apply_chat_template(asked.messages(), add_generation_prompt=True, tokenize=False)
            g = side // FACTOR
            ids = []
            for i in self.tok(text, add_special_tokens=False)["input_ids"]:
                ids += [i] * (g * g if i == self.image else 1)
            t = torch.tensor([ids])
            if asked.images:
                pos, _ = self.model.model.get_rope_index(t, mm_token_type_ids=(t == self.image).int(), image_grid_thw=torch.tensor([[1, 2 * g, 2 * g]] * asked.images))
                pos = pos[:, 0]
            else:
                pos = torch.arange(len(ids)).expand(3, -1)
            self.cache[key] = (t[0], pos)
        return self.cache[key]

    def answer(self, text):
        if text not in self.answers:
            self.answers[text] = torch.tensor(self.tok(text + END, add_special_tokens=False)["input_ids"])
        return self.answers[text]

    def collate(self, items, side):
        rows = []
        for asked, text in items:
            ids, pos = self.prompt(asked, side)
            ans = self.answer(text)
            more = pos.max() + 1 + torch.arange(len(ans))
            rows.append((torch.cat([ids, ans]), torch.cat([pos, more.expand(3, -1)], 1), len(ids)))
        n, length = len(rows), max(len(r[0]) for r in rows)
        ids = torch.full((n, length), self.tok.pad_token_id)
        pos = torch.zeros((3, n, length), dtype=torch.long)
        target = torch.full((n, length), -100)
        for i, (a, p, start) in enumerate(rows):
            ids[i, : len(a)] = a
            pos[:, i, : len(a)] = p
            target[i, start - 1 : len(a) - 1] = a[start:]
        return ids, pos, target


def forward(model, ids, pos, target, pixels):
    kwargs = {}
    pooled = None
    if pixels is not None and len(pixels):
        n, g = len(pixels), pixels.shape[-1] // FACTOR
        grid = torch.tensor([[1, 2 * g, 2 * g]] * n)
        out = model.model.get_image_features(patches(pixels), grid, return_dict=True)
        pooled = torch.cat(list(out.pooler_output)).view(n, g * g, -1)
        kwargs = {"mm_encoder_outputs": {"image": out}}
    hidden = model.model(input_ids=ids, position_ids=pos, use_cache=False, **kwargs).last_hidden_state
    keep = target >= 0
    logits = model.lm_head(hidden[keep])
    return logits, target[keep], pooled


class Lessons:
    def __init__(self, pools, seed, encoder, sizes):
        self.pools, self.encoder = pools, encoder
        self.rng = random.Random(seed)
        self.asker = Asker(random.Random(seed + 1))
        self.gen = torch.Generator().manual_seed(seed)
        self.sizes = sizes

    def batch(self, counts, augment=True):
        """counts: number of prompts by number of images"""
        pool = self.pools[0] if self.rng.random() > SMALL_SHARE else self.rng.choice(self.pools[1:])
        items, picks = [], []
        for images, n in counts.items():
            for _ in range(n):
                asked = self.asker.about_none() if images == 0 else self.asker.about_one() if images == 1 else self.asker.about_several(images)
                mine = [self.rng.randrange(len(pool.colours)) for _ in range(images)]
                picks += mine
                items.append((asked, answer(asked.kind, [(int(pool.colours[i]), int(pool.shapes[i])) for i in mine])))
        px = pool.pixels[picks] if picks else None
        if px is not None and augment:
            px = shifted(px, self.gen)
        labels = (pool.colours[picks], pool.shapes[picks])
        return (*self.encoder.collate(items, pool.side), px), labels


@torch.no_grad()
def exact(model, encoder, pool, asks):
    """share of exact greedy answers."""
    right, i = 0, 0
    misses = []
    for start in range(0, len(asks), 50):
        chunk = asks[start : start + 50]
        picks, items = [], []
        for a in chunk:
            mine = list(range(i, i + a.images)); i += a.images
            picks += mine
            items.append((a, answer(a.kind, [(int(pool.colours[k]), int(pool.shapes[k])) for k in mine])))
        ids, pos, target = encoder.collate(items, pool.side)
        logits, want, _ = forward(model, ids, pos, target, pool.pixels[picks] if picks else None)
        ok = logits.argmax(-1) == want
        where = (target >= 0).nonzero()[:, 0]
        for r in range(len(chunk)):
            good = bool(ok[where == r].all())
            right += good
    return right, len(asks)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--steps", type=int, default=600)
    ap.add_argument("--pool", type=int, default=4000)
    ap.add_argument("--lr", type=float, default=2e-3)
    ap.add_argument("--aux", type=float, default=0.3)
    ap.add_argument("--init", type=float, default=0.05)
    ap.add_argument("--wd", type=float, default=0.05)
    ap.add_argument("--vd", type=int, default=2)
    ap.add_argument("--vh", type=int, default=128)
    ap.add_argument("--layers", type=int, default=3)
    ap.add_argument("--a", default="40,8,16")
    ap.add_argument("--every", type=int, default=200)
    ap.add_argument("--profile", action="store_true")
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--muon", type=float, default=0)
    ap.add_argument("--vsteps", type=int, default=0)
    ap.add_argument("--vb", type=int, default=64)
    ap.add_argument("--vheads", type=int, default=4)
    ap.add_argument("--ns", type=int, default=4)
    a = ap.parse_args()
    torch.set_num_threads(a.threads)
    t0 = time.time()
    import os
    if os.path.exists("/tmp/pools.pt"):
        pools, held, held2 = torch.load("/tmp/pools.pt", weights_only=False)
    else:
      pools = [draw_pool("train", a.pool), *(draw_pool("train", a.pool // 8, s) for s in SMALL_SIZES)]
      held = draw_pool("held-out", 200, plain=True)
      held2 = draw_pool("held-out-wide", 200)
      torch.save((pools, held, held2), "/tmp/pools.pt")
    print("pools", time.time() - t0, flush=True)
    torch.manual_seed(0); random.seed(0)
    tiny_vlm_model.VISION_DEPTH, tiny_vlm_model.VISION_HIDDEN, tiny_vlm_model.LAYERS = a.vd, a.vh, a.layers
    tok = make_tokenizer()
    tiny_vlm_model.VISION_HEADS = a.vheads; model = make_model(tok)
    print("params", sum(p.numel() for p in model.parameters()), "tokens", len(tok), tok.tokenize("What is in the first image and what is in the second image? a red circle and an orange triangle"))
    enc = Encoder(model, tok)
    lessons = Lessons(pools, 0, enc, None)
    heads = nn.Linear(HIDDEN, len(COLOURS) + len(SHAPES))
    params = [*model.parameters(), *heads.parameters()]
    mats = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and "lm_head" not in n] if a.muon else []
    ids_ = {id(p) for p in mats}
    opt1 = torch.optim.AdamW([p for p in params if id(p) not in ids_], lr=a.lr, weight_decay=a.wd, betas=(0.9, 0.98), fused=True)
    opts = [opt1]
    if a.muon:
        opts.append(Muon(mats, lr=a.muon, weight_decay=a.wd, momentum=0.95, ns_steps=a.ns))
    lr_at = lambda s: min(1, s / (0.08 * (a.vsteps or a.steps))) * (1 if s < 0.5 * (a.vsteps or a.steps) else max(0.0, 0.5 + 0.5 * __import__("math").cos(__import__("math").pi * (s / (a.vsteps or a.steps) - 0.5) / 0.5)))
    scheds = [torch.optim.lr_scheduler.LambdaLR(o, lr_at) for o in opts]
    n1, n0, n2 = map(int, a.a.split(","))
    model.train()
    from tiny_vlm_lessons import QUESTION, PAIR_QUESTION, TEXT_QUESTION
    def step():
        total = 0
        logs = []
        for counts in ({1: n1, 0: n0}, {2: n2}):
            (ids, pos, target, px), (cl, sh) = lessons.batch(counts)
            logits, want, pooled = forward(model, ids, pos, target, px)
            lm = functional.cross_entropy(logits, want)
            guess = heads(pooled.mean(1))
            aux = functional.cross_entropy(guess[:, : len(COLOURS)], cl) + functional.cross_entropy(guess[:, len(COLOURS):], sh)
            total = total + lm + a.aux * aux
            logs += [lm.item(), aux.item()]
        for o in opts: o.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        for o in (*opts, *scheds): o.step()
        return logs
    def vstep(n):
        pool = pools[0] if random.random() > SMALL_SHARE else random.choice(pools[1:])
        pick = torch.randint(len(pool.colours), (n,))
        px = shifted(pool.pixels[pick], lessons.gen)
        g = pool.side // FACTOR
        out = model.model.get_image_features(patches(px), torch.tensor([[1, 2*g, 2*g]] * n), return_dict=True)
        guess = heads(torch.cat(list(out.pooler_output)).view(n, g*g, -1).mean(1))
        loss = functional.cross_entropy(guess[:, : len(COLOURS)], pool.colours[pick]) + functional.cross_entropy(guess[:, len(COLOURS):], pool.shapes[pick])
        for o in opts: o.zero_grad()
        loss.backward()
        for o in (*opts, *scheds): o.step()
        return loss.item()
    def vacc(pool):
        with torch.no_grad():
            g = 4; n = len(pool.colours)
            out = model.model.get_image_features(patches(pool.pixels), torch.tensor([[1, 2*g, 2*g]] * n), return_dict=True)
            guess = heads(torch.cat(list(out.pooler_output)).view(n, g*g, -1).mean(1))
            return int((guess[:, :len(COLOURS)].argmax(-1) == pool.colours).sum()), int((guess[:, len(COLOURS):].argmax(-1) == pool.shapes).sum())
    if a.vsteps:
        t0 = time.time(); c0 = time.process_time(); tot = []
        for s in range(1, a.vsteps + 1):
            tot.append(vstep(a.vb))
            if s % a.every == 0:
                print("V", s, f"{time.time()-t0:.0f}s cpu {time.process_time()-c0:.0f}", round(sum(tot[-50:])/50, 3), vacc(held), vacc(held2), flush=True)
        lr_at = lambda s: min(1, s / (0.05 * a.steps)) * (1 if s < 0.5 * a.steps else max(0.0, 0.5 + 0.5 * __import__("math").cos(__import__("math").pi * (s / a.steps - 0.5) / 0.5)))
        scheds[:] = []
        for o in opts:
            for g in o.param_groups: g["lr"] = g["initial_lr"]
        scheds[:] = [torch.optim.lr_scheduler.LambdaLR(o, lr_at) for o in opts]
    if a.profile:
        for _ in range(3): step()
        with torch.profiler.profile() as prof:
            for _ in range(5): step()
        print(prof.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=40)[:6000])
    t0 = time.time(); c0 = time.process_time()
    for s in range(1, a.steps + 1):
        logs = step()
        if s % a.every == 0:
            model.eval()
            e1 = exact(model, enc, held, [Asked(QUESTION, 1, "all")] * 200)[0]
            e2 = exact(model, enc, held, [Asked(PAIR_QUESTION, 2, "all")] * 100)[0]
            e3 = exact(model, enc, held2, [Asked(QUESTION, 1, "all")] * 200)[0]
            model.train()
            print(s, f"{time.time()-t0:.0f}s cpu {time.process_time()-c0:.0f}", [round(x, 3) for x in logs], e1, e2, e3, flush=True)


if __name__ == "__main__":
    main()

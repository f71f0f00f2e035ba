"""The KV cache as vLLM builds it: blocks, groups of layers, tokens, concurrency.

Source: vllm/v1/core/kv_cache_utils.py and vllm/v1/kv_cache_interface.py; what changed between
versions is in `engine_rules`. The results are those that the log prints, to the token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import NamedTuple

from hpcvlm.memory.engine_rules import EngineRules
from hpcvlm.memory.shapes import LayerKind, Layers, ModelShape

_WINDOWED = (LayerKind.SLIDING, LayerKind.CHUNKED)
_GROWING = (LayerKind.FULL, LayerKind.MLA)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class KvOptions:
    """What decides the cache besides the model.

    Attributes:
        max_num_batched_tokens: tokens of one step, which stay beyond a window for a while.
        block_size: tokens of a block, as the engine sets it.
        alignment: what a block of a model with states must be a multiple of.
        dtype_bytes: of a stored number: 2, or 1 with an fp8 cache.
        hybrid: whether windows are kept short (off: --disable-hybrid-kv-cache-manager).
        encoder_tokens: that the cross-attention layers keep for a request.
        prefix_caching: of --enable-prefix-caching; None for the engine's default.
    """

    tensor_parallel: int = 1
    max_num_batched_tokens: int = 2048
    block_size: int = 16
    alignment: int = 16
    dtype_bytes: int = 2
    hybrid: bool = True
    encoder_tokens: int = 0
    prefix_caching: bool | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _Pool:
    """Layers that share one specification (vLLM's KVCacheSpec).

    Attributes:
        page: bytes of a block of one layer.
        block: tokens of a block.
        sizes: heads and widths: only equal ones go into one group.
    """

    kind: LayerKind
    count: int
    page: int
    block: int
    window: int | None
    sizes: tuple[int, int, int]


class KvPlan(NamedTuple):
    """The cache of one GPU.

    Attributes:
        block_bytes: of one block of the pool, over all layers of a group.
        groups: how many groups of layers draw from the pool.
        smallest_block: tokens of the smallest block.
    """

    pools: tuple[_Pool, ...]
    groups: tuple[int, ...]
    block_bytes: int
    rules: EngineRules
    options: KvOptions

    @property
    def smallest_block(self) -> int:
        """Tokens of the smallest block of any group."""
        return min(pool.block for pool in self.pools)

    def request_blocks(self, length: int) -> int:
        """Blocks that one request of that many tokens holds, over all groups."""
        return sum(
            count * self._blocks(pool, length)
            for pool, count in zip(self.pools, self.groups, strict=True)
        )

    def request_bytes(self, length: int) -> int:
        """Bytes that the start's test asks for one request of that length."""
        if self.rules.fit_by_groups:
            return self.block_bytes * self.request_blocks(length)
        return sum(pool.count * pool.page * self._blocks(pool, length) for pool in self.pools)

    def fits(self, length: int, available: int) -> bool:
        """Whether vLLM starts: one request of that length must fit into the cache."""
        spare = self.block_bytes if self.rules.spare_block else 0
        return self.request_bytes(length) <= available - spare

    def longest(self, available: int, limit: int) -> int:
        """The longest request that fits, in tokens, up to a limit; 0 when none does.

        vLLM's own search: it prints this number as the estimated maximum model length.
        """
        if not self.fits(1, available):
            return 0
        low, high = 1, limit
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.fits(middle, available) else (low, middle - 1)
        return low

    def num_blocks(self, available: int) -> int:
        """Blocks of a cache of that many bytes."""
        return max(0, available) // self.block_bytes

    def concurrency(self, available: int, length: int) -> float:
        """Requests of that length that fit together, as the log prints it."""
        return self.num_blocks(available) / self.request_blocks(length)

    def tokens(self, available: int, length: int) -> int:
        """The number in the line ``GPU KV cache size: N tokens``.

        Args:
            available: bytes of the cache, on one GPU.
            length: --max-model-len.
        """
        if self.rules.tokens_by_request:
            return int(self.concurrency(available, length) * length)
        return self.num_blocks(available) // sum(self.groups) * self.smallest_block

    def bytes_per_token(self, length: int) -> float:
        """Bytes on this GPU per token of a request of that length, all layers together."""
        return self.block_bytes * self.request_blocks(length) / length

    def _blocks(self, pool: _Pool, length: int) -> int:
        """Blocks of one request in one group (max_memory_usage_bytes of the specifications)."""
        flying = self.rules.batches * self.options.max_num_batched_tokens
        if pool.kind is LayerKind.STATE:
            asked = self.options.prefix_caching
            cached = self.rules.caches_states if asked is None else asked
            return self.rules.state_copies if cached else 1
        if pool.kind is LayerKind.CROSS:
            return ceil(self.options.encoder_tokens / pool.block)
        if pool.kind is LayerKind.SLIDING and pool.window is not None:
            return ceil(min(pool.window - 1 + flying, length) / pool.block) + 1
        if pool.kind is LayerKind.CHUNKED and pool.window is not None:
            return ceil(min(pool.window + flying, length) / pool.block)
        return ceil(length / pool.block)


def plan_cache(shape: ModelShape, rules: EngineRules, options: KvOptions) -> KvPlan | None:
    """How vLLM lays out a model's cache.

    Returns:
        None for a model whose layers are unknown.
    """
    if not shape.layers:
        return None
    if rules.legacy:
        return _legacy(shape, rules, options)
    pools = _promoted(_pools(shape, options), rules, options)
    same = _one_group(pools)
    if same is not None:
        return KvPlan((same,), (1,), same.page * same.count, rules, options)
    pools = _one_page(pools)
    size = _group_size([pool.count for pool in pools], rules.padding)
    groups = tuple(ceil(pool.count / size) for pool in pools)
    return KvPlan(tuple(pools), groups, size * pools[0].page, rules, options)


def bytes_of_token(shape: ModelShape, tensor_parallel: int = 1, dtype_bytes: int = 2) -> int:
    """Bytes that a token adds to a long request's cache on one GPU, in the layers that grow."""
    growing = (one for one in shape.layers if one.kind in {LayerKind.FULL, LayerKind.MLA})
    return sum(one.count * _per_token(one, tensor_parallel, dtype_bytes) for one in growing)


def _per_token(layer: Layers, tensor_parallel: int, dtype_bytes: int) -> int:
    """Heads that GPUs outnumber are repeated; MLA's one vector is on every GPU."""
    heads = max(1, layer.kv_heads // tensor_parallel)
    return heads * (layer.head_dim + layer.head_dim_v) * dtype_bytes


def _pools(shape: ModelShape, options: KvOptions) -> list[_Pool]:
    block = options.block_size
    tensor_parallel = options.tensor_parallel
    states = [one.state for one in shape.layers if one.state is not None]
    attention = [one for one in shape.layers if one.kind is not LayerKind.STATE]
    state_page = max(
        (one.bytes_per_gpu(tensor_parallel, shape.dtype_bytes) for one in states), default=0
    )
    if state_page and attention:
        # platforms/interface.py, _align_hybrid_block_size: a block of attention holds a state.
        one_token = _per_token(attention[0], tensor_parallel, options.dtype_bytes)
        step = max(options.alignment, block)
        block = max(block, step * ceil(state_page / (step * one_token)))
        state_page = block * one_token
    pools = []
    for layer in shape.layers:
        is_state = layer.kind is LayerKind.STATE
        page = (
            state_page
            if is_state
            else block * _per_token(layer, tensor_parallel, options.dtype_bytes)
        )
        sizes = (layer.kv_heads, layer.head_dim, layer.head_dim_v)
        pools.append(_Pool(layer.kind, layer.count, page, block, layer.window, sizes))
    return pools


def _promoted(pools: list[_Pool], rules: EngineRules, options: KvOptions) -> list[_Pool]:
    """Windows become full attention where they are not kept short (unify_hybrid_kv_cache_specs)."""
    chunked = any(pool.kind is LayerKind.CHUNKED for pool in pools)
    keep = options.hybrid and not (chunked and rules.chunked_is_full)
    full = any(pool.kind in _GROWING for pool in pools)
    if keep or not full:
        return pools
    found: list[_Pool] = []
    for pool in pools:
        now = replace(pool, kind=LayerKind.FULL) if pool.kind in _WINDOWED else pool
        twin = next(
            (i for i, one in enumerate(found) if (one.kind, one.sizes) == (now.kind, now.sizes)),
            None,
        )
        if twin is None:
            found.append(now)
        else:
            found[twin] = replace(found[twin], count=found[twin].count + now.count)
    return found


def _one_group(pools: Sequence[_Pool]) -> _Pool | None:
    """All layers as one where they need the same tokens (UniformTypeKVCacheSpecs).

    The page of the result is the mean one: only its product with the count is used.
    """
    kinds = {pool.kind for pool in pools}
    windows = {pool.window for pool in pools}
    if len(pools) == 1:
        return pools[0]
    growing = kinds <= set(_GROWING)
    alike = len(kinds) == 1 and len(windows) == 1 and kinds <= set(_WINDOWED)
    if not growing and not alike:
        return None
    total = sum(pool.count * pool.page for pool in pools)
    return replace(pools[0], count=1, page=total)


def _one_page(pools: Sequence[_Pool]) -> list[_Pool]:
    """Pages of one size: smaller ones hold more tokens, or are padded.

    Source: unify_kv_cache_spec_page_size.
    """
    largest = max(pool.page for pool in pools)
    found = []
    for pool in pools:
        block = pool.block
        if pool.kind is not LayerKind.STATE and largest % pool.page == 0:
            block *= largest // pool.page
        found.append(replace(pool, page=largest, block=block))
    return found


def _group_size(counts: Sequence[int], padding: float) -> int:
    """Layers of a group: those of the rarest kind, or of the commonest when it is close."""
    least, most = min(counts), max(counts)
    return most if most < least * padding else least


def _legacy(shape: ModelShape, rules: EngineRules, options: KvOptions) -> KvPlan:
    """The older engine (V0) gives every layer a place for every token, cross-attention too.

    Text and picture draw blocks from the same pool. Source: vllm/worker/cache_engine.py and
    vllm/core/block_manager.py of 0.10.
    """
    page = sum(
        one.count * _per_token(one, options.tensor_parallel, options.dtype_bytes)
        for one in shape.layers
    )
    block, sizes = options.block_size, (0, 0, 0)
    text = _Pool(LayerKind.FULL, 1, page * block, block, None, sizes)
    picture = replace(text, kind=LayerKind.CROSS)
    return KvPlan((text, picture), (1, 1), page * block, rules, options)

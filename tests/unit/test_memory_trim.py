"""A trimmed config.json says of the memory what the whole one says."""

from __future__ import annotations

import pytest

from hpcvlm.memory.model_config import read_model
from hpcvlm.memory.trim import KEYS, SECTIONS, trimmed
from tests.unit import memory_configs as configs

ALL = {name: value for name, value in vars(configs).items() if name.isupper()}


@pytest.mark.parametrize("name", ALL)
def test_nothing_that_counts_is_lost(name: str) -> None:
    noise = {"transformers_version": "4.51.0", "bos_token_id": 1, "hidden_act": "silu"}
    whole = {**noise, **ALL[name]}
    short = trimmed(whole)
    assert read_model(short, 10**9) == read_model(whole, 10**9)
    assert not set(noise) & set(short)
    assert trimmed(short) == short


class _Spy(dict[str, object]):
    """Knows which keys it was asked for, whether it has them or not."""

    asked: set[str]

    def get(self, key: str, default: object = None) -> object:
        self.asked.add(key)
        return super().get(key, default)


def _spied(config: configs.Config, asked: set[str]) -> _Spy:
    spy = _Spy(
        {key: _spied(one, asked) if isinstance(one, dict) else one for key, one in config.items()}
    )
    spy.asked = asked
    return spy


@pytest.mark.parametrize("name", ALL)
def test_every_key_that_is_asked_for_is_kept(name: str) -> None:
    asked: set[str] = set()
    read_model(_spied(ALL[name], asked))
    inside = {"rope_type", "type", "factor", "max_slice_nums", "vision_encoder_args"}
    assert asked - inside <= KEYS | SECTIONS


def test_null_stays() -> None:
    assert trimmed({"sliding_window": None, "pad_token_id": None}) == {"sliding_window": None}


def test_quantisation_keeps_method_and_bits() -> None:
    found = {
        "quant_method": "compressed-tensors",
        "ignore": ["lm_head"] * 100,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8}}},
    }
    config = {**configs.LLAMA31_8B, "quantization_config": found}
    short = trimmed(config)
    assert read_model(short) == read_model(config)
    assert short["quantization_config"] == {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"weights": {"num_bits": 8}}},
    }

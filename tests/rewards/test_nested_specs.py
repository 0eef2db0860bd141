"""Rewards made of rewards, by the names of a configuration."""

import json

import pytest
import yaml

from lmrl.arguments.checks import reward_spec
from lmrl.rewards import make_reward

WRITTEN = {
    "weighted: {exact_match: 0.7, distinct_n: 0.3}": "0.7 * (exact_match|nrefs:var|normalize:strip) + 0.3 * (N)",
    """
    weighted:
      - {reward: exact_match, weight: 1}
      - reward: {length: {target: 20}}
        weight: -0.3
    """: "1 * (M) + -0.3 * (length|target:20|unit:words)",
    "product: [exact_match, {length: {target: 20}}]": "(M) * (length|target:20|unit:words)",
    "minimum: [exact_match, distinct_n]": "minimum(M, N)",
    "gate: {reward: distinct_n, when: {exact_match: {normalize: squad}}, at_least: 1, otherwise: -1}": (
        "(N if exact_match|nrefs:var|normalize:squad >= 1 else -1)"
    ),
    "threshold: {reward: distinct_n, at_least: 0.5}": "(N >= 0.5)",
    "clipped: {reward: distinct_n, low: -1, high: 0.5}": "clipped(N, -1, 0.5)",
    "clipped: {reward: distinct_n, low: -.inf, high: 0.5}": "clipped(N, -inf, 0.5)",
    "scaled: {reward: distinct_n, scale: -2, shift: 1}": "-2 * (N) + 1",
    "normalized: {reward: distinct_n}": "normalized(N, by running)",
    "clipped: {reward: {normalized: {reward: distinct_n, by: group}}, high: 3}": (
        "clipped(normalized(N, by group), -inf, 3)"
    ),
    "product: [{weighted: {exact_match: 1.0, distinct_n: 1.0}}, exact_match]": "(1 * (M) + 1 * (N)) * (M)",
    "cached: {reward: distinct_n}": "N",
    "weighted: {rewards: {exact_match: 1.0}, name: total}": "1 * (M)",
    "product: {rewards: [exact_match, distinct_n], name: total}": "(M) * (N)",
}


@pytest.mark.parametrize("text", WRITTEN)
def test_what_is_written_in_yaml_or_json_is_made(text):
    spec = yaml.safe_load(text)
    expected = WRITTEN[text].replace("M", "exact_match|nrefs:var|normalize:strip")
    expected = expected.replace("N", "distinct_n|n:3|split:whitespace")
    assert make_reward(spec).signature == expected
    assert make_reward(json.dumps(spec)).signature == expected
    assert make_reward(reward_spec(json.dumps(spec))).signature == expected


def test_a_name_may_be_given():
    assert make_reward({"weighted": {"rewards": {"bleu": 1.0}, "name": "total"}}).__name__ == "total"
    assert make_reward({"minimum": {"rewards": ["bleu", "gleu"], "name": "total"}}).__name__ == "total"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"weighted": ["bleu", "rougeL"]}, r"`weighted` must be a mapping of names to weights, \{bleu: 0.7"),
        ({"weighted": [["bleu", 0.7]]}, "mapping of names to weights"),
        ({"weighted": [{"bleu": 0.7}]}, "mapping of names to weights"),
        ({"weighted": [{"reward": "bleu", "weight": 1, "name": "b"}]}, "mapping of names to weights"),
        ({"weighted": {"bleu": "0.7"}}, "mapping of names to weights"),
        ({"weighted": {"bleu": True}}, "mapping of names to weights"),
        ({"weighted": {}}, "mapping of names to weights"),
        ({"weighted": None}, "mapping of names to weights"),
        ("weighted", r"'weighted' needs \['rewards'\]"),
        ({"weighted": {"blue": 0.7}}, "must have a known name, got 'blue'"),
        ({"product": "bleu"}, "must be a list"),
        ({"product": {"bleu": 1}}, "must be a list"),
        ({"product": None}, "must be a list"),
        ({"product": ["bleu", "bleu"]}, "distinct names"),
        ({"clipped": {"reward": "blue", "high": 1}}, "must have a known name, got 'blue'"),
        ({"clipped": {"reward": {"length": {}}, "high": 1}}, r"'length' needs \['target'\]"),
        ({"clipped": "bleu"}, "mapping of names to values"),
        ({"gate": {"reward": "bleu"}}, r"'gate' needs \['when'\]"),
        ({"normalized": {"reward": "bleu", "by": "batch"}}, "`by` must be one of running, group"),
    ],
)
def test_what_is_written_otherwise_is_refused_with_what_would_be_right(spec, message):
    with pytest.raises(ValueError, match=message):
        make_reward(spec)

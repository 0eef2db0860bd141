"""What is logged of a critic's worth: by quarter of the text, and beside what leave-one-out would explain."""

from collections import defaultdict

import pytest
import torch
from accelerate import Accelerator

from lmrl.trainers.meter import Meter

NAMES = ("", "quarter_1", "quarter_2", "quarter_3", "quarter_4")
MASK = torch.tensor([[1] * 8, [1] * 4 + [0] * 4])
RETURNS = torch.tensor([[8.0, 7, 6, 5, 4, 3, 2, 1], [1, 2, 3, 4, torch.nan, torch.nan, torch.nan, torch.nan]])


def explained(
    values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor, totals: list[float]
) -> dict[str, float]:
    """Returns what is logged, by the last part of its name."""
    policy = torch.nn.Linear(1, 1).train()
    meter = Meter(Accelerator(cpu=True), {"train": defaultdict(list), "eval": defaultdict(list)}, policy)
    meter.log_explained(values, returns, mask, torch.tensor(totals), group=2)
    assert all(name.startswith("value/explained_variance") for name in meter.values["train"])
    logged = meter.values["train"]
    return {name.removeprefix("value/explained_variance")[1:]: value for name, (value,) in logged.items()}


def test_perfect_values_explain_all_and_a_constant_explains_nothing() -> None:
    perfect = explained(RETURNS, RETURNS, MASK, [1.0, 3.0])
    assert [perfect[name] for name in NAMES] == [1.0] * 5
    constant = explained(torch.full((2, 8), 2.0), RETURNS, MASK, [1.0, 3.0])
    assert [constant[name] for name in NAMES] == pytest.approx([0.0] * 5)


def test_a_quarter_is_of_each_text_by_its_own_length() -> None:
    """The first has two tokens in each quarter, the second one."""
    values = RETURNS.clone()
    values[0, 2:4] = 0.0  # the second quarter: returns 6, 5 and 2, errors 6, 5 and 0
    found = explained(values, RETURNS, MASK, [1.0, 3.0])
    assert [found[f"quarter_{number}"] for number in (1, 3, 4)] == [1.0] * 3
    assert found["quarter_2"] == pytest.approx(1 - (61 - 121 / 3) / (65 - 169 / 3))


def test_leave_one_out_is_what_the_other_completions_of_the_prompt_got() -> None:
    """Of completions, as for REINFORCE: there are no quarters, and one without another is left out."""
    totals = [1.0, 1.0, 3.0, 3.0, 5.0, torch.nan]
    returns = torch.tensor(totals).unsqueeze(1)
    mask = (~returns.isnan()).long()
    found = explained(torch.zeros(6, 1), returns, mask, totals)
    assert found == {"": pytest.approx(0.0), "leave_one_out": 1.0}


def test_nothing_is_logged_where_there_is_nothing_to_explain() -> None:
    assert explained(RETURNS, torch.ones(2, 8), MASK, [1.0, 1.0]) == {}

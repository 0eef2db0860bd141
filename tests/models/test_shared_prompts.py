"""The passes without padding and copies of prompts, against the plain pass of each architecture."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch_flash import TorchFlash, registered
from transformers import AutoModelForCausalLM
from transformers.masking_utils import eager_mask

from lmrl.critics import attach_critic
from lmrl.models import TrunkAdapter, add_scoring_forward, backbone_of, check_scoring_forward, share_prompts
from lmrl.models.shared_base import bare_backbone
from lmrl.models.shared_prompts import StatesBefore
from lmrl.packing import PackedRows, cost, pack, pack_into_one_row

TOKENS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "vocab_size": 64}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.2}
GPT2 = {**GPT, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = {**LAYERS, "intermediate_size": 64, "max_position_embeddings": 64, "initializer_range": 0.2}
GROUPED = {**LLAMA, "num_key_value_heads": 2}
SLIDING = {**GROUPED, "head_dim": 8, "sliding_window": 6}
ALIBI = {"initializer_range": 0.2}
TWO_KINDS = {"layer_types": ["sliding_attention", "full_attention"]}

# By config: its options, and whether prompts are shared, sequences are only side by side, or the plain pass stays.
ARCHITECTURES: dict[str, tuple[dict[str, Any], str | None]] = {
    "GPT2Config": (GPT2, "shared"),
    "OPTConfig": ({**LAYERS, "ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.2}, "shared"),
    "GPTNeoXConfig": (LLAMA, "shared"),
    "BloomConfig": ({"hidden_size": 32, "n_layer": 2, "n_head": 4, **ALIBI}, "apart"),
    "LlamaConfig": (GROUPED, "shared"),
    "MistralConfig": (SLIDING, "shared"),
    "Qwen2Config": (GROUPED, "shared"),
    "Qwen3Config": ({**GROUPED, "head_dim": 8}, "shared"),
    "Gemma2Config": (SLIDING, "shared"),
    "Gemma3TextConfig": ({**SLIDING, **TWO_KINDS}, "shared"),
    "PhiConfig": (LLAMA, "shared"),
    "FalconConfig": ({**LAYERS, "initializer_range": 0.2}, "shared"),
    "MptConfig": ({"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64, **ALIBI}, "apart"),
    "GPTJConfig": ({**GPT, "rotary_dim": 4}, "shared"),
    "OlmoConfig": (LLAMA, "shared"),
    "GraniteConfig": (GROUPED, "shared"),
    "CohereConfig": (GROUPED, "shared"),
    "StableLmConfig": (GROUPED, "shared"),
    "MambaConfig": ({"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}, None),
    "RwkvConfig": ({"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32}, None),
}
LENGTHS = (12, 1, 5, 8, 7, 12, 3, 1)  # of the completions


def make(name: str, **others: Any) -> Any:
    """Returns a random model of an architecture that scores completions."""
    torch.manual_seed(0)
    options, _ = ARCHITECTURES[name]
    model = AutoModelForCausalLM.from_config(getattr(transformers, name)(**options, **TOKENS, **others)).eval()
    add_scoring_forward(model, temperature=0.7)
    return model


def batch(lengths: tuple[int, ...] = LENGTHS) -> tuple[Tensor, Tensor]:
    """Returns 4 completions each of 2 prompts, one of which is padded on the left."""
    ids = torch.randint(3, 64, (len(lengths), 24), generator=torch.Generator().manual_seed(1))
    ids[:4, :12] = ids[0, :12]
    ids[4:, :12] = ids[-1, :12]
    mask = torch.ones_like(ids)
    mask[:4, :5] = 0
    for row, length in enumerate(lengths):
        mask[row, 12 + length :] = 0
    return ids, mask


def scored(model: Any, ids: Tensor, mask: Tensor, with_values: bool = False) -> tuple[Any, Tensor]:
    """Returns the scored completions, and the gradient at all weights."""
    model.zero_grad()
    out = model(input_ids=ids, attention_mask=mask, completion_length=12, with_values=with_values)
    loss = out.log_probs.sum() + 0.3 * out.entropy.sum()
    (loss + 0.1 * out.state_values.square().sum() if with_values else loss).backward()
    return out, torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


def check_equal(
    model: Any,
    ids: Tensor,
    mask: Tensor,
    with_values: bool = False,
    tolerance: float = 1e-5,
    form: str | None = None,
) -> None:
    """Compares the plain pass with the one that shares prompts, or with one of a given form."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    plain, gradient = scored(model, ids, mask, with_values)
    check_scoring_forward(base, 0.7, "auto")
    critic = getattr(base, "critic", None)
    if critic is not None and critic.backbone is not None:
        critic.backbone.pass_form = form or "shared"
    if form is not None:
        backbone_of(base).pass_form = form
    shared, other = scored(model, ids, mask, with_values)
    for name in ("log_probs", "entropy", *(["state_values"] if with_values else [])):
        assert torch.allclose(shared[name], plain[name], atol=tolerance), name
        assert (shared[name][mask[:, 12:] == 0] == 0).all(), name
    assert (other - gradient).norm() <= tolerance * gradient.norm()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_log_probs_and_gradients_are_those_of_the_plain_pass(name: str) -> None:
    model = make(name)
    check_equal(model, *batch())
    assert backbone_of(model).pass_form == ARCHITECTURES[name][1]


def test_prompts_are_computed_once_and_padding_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("LlamaConfig")
    check_scoring_forward(model, 0.7, "auto")
    shapes = []
    model.model.register_forward_pre_hook(lambda _, args, kw: shapes.append(kw["input_ids"].shape), with_kwargs=True)
    scored(model, *batch())
    # Prompts of 7 and 12 tokens, and completions without their last tokens: 11 + 0 + 4 + 7 and 6 + 11 + 2 + 0.
    assert sum(rows * length for rows, length in shapes) in range(7 + 12 + 22 + 19, 66)
    plain = make("LlamaConfig")
    plain.model.register_forward_pre_hook(lambda _, args, kw: shapes.append(kw["input_ids"].shape), with_kwargs=True)
    scored(plain, *batch())
    assert shapes[-1] == (8, 24)


@pytest.mark.parametrize("kind", ["shared", "separate", "adapter"])
def test_the_critics_values_are_those_of_the_plain_pass(kind: str) -> None:
    model = make("LlamaConfig")
    if kind == "adapter":
        get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    backbone = backbone_of(make("GPT2Config")) if kind == "separate" else None
    critic = attach_critic(model, backbone, TrunkAdapter(model) if kind == "adapter" else None)
    torch.nn.init.normal_(critic.value.weight)
    check_equal(model, *batch(), with_values=True)


def test_a_separate_critic_shares_prompts_where_the_policy_does() -> None:
    model = make("LlamaConfig")
    attach_critic(model, backbone_of(make("LlamaConfig")))
    assert not hasattr(model.critic.backbone, "pass_form")
    check_scoring_forward(model, 0.7, "auto")
    attach_critic(model, backbone_of(make("GPT2Config")))
    assert model.critic.backbone.pass_form == "shared"


@pytest.mark.parametrize("checkpointing", [None, False, True])
def test_with_lora_and_with_gradient_checkpointing(checkpointing: bool | None) -> None:
    model = get_peft_model(make("LlamaConfig"), LoraConfig(r=2, init_lora_weights=False, target_modules="all-linear"))
    if checkpointing is not None:
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
        model.enable_input_require_grads()
        model.train()
    check_equal(model, *batch())


def test_in_bfloat16() -> None:
    model = make("LlamaConfig")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        # Rounding of 8 bits: log-probabilities of up to 10 nats, in two passes.
        check_equal(model, *batch(), tolerance=0.1)
    check_equal(make("LlamaConfig").to(torch.bfloat16), *batch(), tolerance=0.1)


@pytest.mark.parametrize("lengths", [(12,) * 8, (1,) * 8, (0, 3, 0, 4, 0, 0, 0, 0)])
def test_with_completions_of_one_length_of_one_token_or_of_none(lengths: tuple[int, ...]) -> None:
    check_equal(make("GPT2Config"), *batch(lengths))


def test_with_one_completion_a_prompt_and_with_one_prompt_for_all() -> None:
    ids, mask = batch()
    different = torch.randint(3, 64, ids.shape, generator=torch.Generator().manual_seed(2))
    mask[:, 11] = 1
    check_equal(make("GPT2Config"), different, mask)
    ids[:, :12] = ids[0, :12]
    mask[:, :12] = mask[0, :12]
    check_equal(make("GPT2Config"), ids, mask)


def test_the_plain_pass_reads_no_configuration() -> None:
    class Embedding(torch.nn.Embedding):
        def forward(self, input_ids: Tensor, **_: Any) -> SimpleNamespace:
            return SimpleNamespace(last_hidden_state=super().forward(input_ids))

    backbone = Embedding(64, 8)
    ids, mask = batch()
    expected = backbone.weight[ids][:, 11:-1][mask[:, 12:].bool()]
    assert torch.equal(StatesBefore(ids, mask, 12)(backbone), expected)


def test_without_a_token_that_counts_the_graph_is_kept() -> None:
    model = make("GPT2Config")
    check_scoring_forward(model, 0.7, "auto")
    ids, mask = batch((0,) * 8)
    out, gradient = scored(model, ids, mask)
    assert out.log_probs.shape == (8, 12)
    assert not gradient.any()


def test_where_nothing_is_saved_the_plain_pass_is_bit_for_bit() -> None:
    ids = torch.randint(3, 64, (4, 24), generator=torch.Generator().manual_seed(3))
    model = make("GPT2Config")
    plain, _ = scored(model, ids, torch.ones_like(ids))
    check_scoring_forward(model, 0.7, "auto")
    assert torch.equal(scored(model, ids, torch.ones_like(ids))[0].log_probs, plain.log_probs)


def lines_of(caplog: pytest.LogCaptureFixture, backbone: Any, **options: Any) -> list[str]:
    """Returns the lines in the log where a backbone is to share prompts."""
    logger = transformers.utils.logging.get_logger("lmrl.models.shared_prompts")
    logger.propagate = False
    logger.addHandler(caplog.handler)
    share_prompts(backbone, **options)
    logger.removeHandler(caplog.handler)
    return caplog.messages


def test_attention_that_takes_no_mask_of_pairs_keeps_the_plain_pass(caplog: pytest.LogCaptureFixture) -> None:
    model = make("LlamaConfig")
    model.config._attn_implementation = "flex_attention"
    assert lines_of(caplog, model.model) == [
        "LlamaModel computes each prompt once per completion: its attention is 'flex_attention', which takes no mask "
        "of pairs."
    ]
    assert model.model.pass_form is None


# -- flash attention --------------------------------------------------------------------------------------------------


@pytest.fixture
def flash() -> Iterator[TorchFlash]:
    with registered("flash_in_torch") as attention:
        yield attention


def with_flash(model: Any, name: str = "flash_in_torch") -> Any:
    """Returns a model with registered attention; `from_config` would look for a package of the name."""
    model.config._attn_implementation = name
    return model


@pytest.mark.parametrize("name", ["GPT2Config", "LlamaConfig", "Qwen2Config", "MistralConfig", "Gemma2Config"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_sequences_behind_each_other_are_separated_by_their_positions(name: str, attention: str) -> None:
    model = make(name)
    if name != "Gemma2Config":  # whose softcap sdpa does not have
        model.config._attn_implementation = attention
    check_equal(model, *batch(), form="flash")


# Those whose attention is found by its name alone.
WITH_FLASH = [name for name in ARCHITECTURES if name not in ("BloomConfig", "MptConfig", "FalconConfig", "GPTJConfig")]


@pytest.mark.parametrize("name", WITH_FLASH)
def test_the_pass_with_flash_attention_is_the_plain_pass(name: str, flash: TorchFlash) -> None:
    model = with_flash(make(name))
    check_equal(model, *batch())
    is_stateful = ARCHITECTURES[name][1] is None
    assert backbone_of(model).pass_form == (None if is_stateful else "flash")
    assert bool(flash.bounds) is not is_stateful


def test_no_sequence_sees_another(flash: TorchFlash) -> None:
    model = with_flash(make("LlamaConfig"))
    share_prompts(model.model, may_share=False)
    flash.bounds.clear()
    flash.positions.clear()
    ids, mask = batch()
    out, _ = scored(model, ids, mask)
    # Prompts of 7 and 12 tokens with completions of 12, 1, 5, 8, 7, 12, 3 and 1, without their last tokens.
    lengths = [18, 7, 11, 14, 18, 23, 14, 12]
    assert flash.bounds == [torch.tensor([0, *lengths[:-1]]).cumsum(0).tolist()] * 2
    assert flash.positions == [[place for length in lengths for place in range(length)]] * 2
    changed = ids.clone()
    changed[2, 5:17] = (changed[2, 5:17] + 1) % 64
    other, _ = scored(model, changed, mask)
    assert not torch.equal(other.log_probs[2], out.log_probs[2])
    others = [0, 1, 3, 4, 5, 6, 7]
    assert torch.equal(other.log_probs[others], out.log_probs[others])


@pytest.mark.usefixtures("flash")
@pytest.mark.parametrize("checkpointing", [None, False, True])
def test_flash_attention_with_lora_and_gradient_checkpointing(checkpointing: bool | None) -> None:
    lora = LoraConfig(r=2, init_lora_weights=False, target_modules="all-linear")
    model = get_peft_model(with_flash(make("LlamaConfig")), lora)
    if checkpointing is not None:
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
        model.enable_input_require_grads()
        model.train()
    check_equal(model, *batch(), form="flash")


@pytest.mark.usefixtures("flash")
@pytest.mark.parametrize("lengths", [(12,) * 8, (1,) * 8, (0, 3, 0, 4, 0, 0, 0, 0), (0,) * 8])
def test_flash_attention_with_completions_of_one_token_or_of_none(lengths: tuple[int, ...]) -> None:
    check_equal(with_flash(make("GPT2Config")), *batch(lengths), form="flash")
    ids, mask = batch((12,) * 8)
    check_equal(with_flash(make("GPT2Config")), ids[:1], mask[:1], form="flash")


@pytest.mark.usefixtures("flash")
@pytest.mark.parametrize("kind", ["shared", "separate", "adapter"])
def test_a_critics_values_with_flash_attention_are_those_of_the_plain_pass(kind: str) -> None:
    model = with_flash(make("LlamaConfig"))
    share_prompts(model.model, may_share=False)
    if kind == "adapter":
        get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    backbone = backbone_of(with_flash(make("GPT2Config"))) if kind == "separate" else None
    critic = attach_critic(model, backbone, TrunkAdapter(model) if kind == "adapter" else None)
    assert backbone is None or backbone.pass_form == "flash"
    model.model.pass_form = None
    torch.nn.init.normal_(critic.value.weight)
    check_equal(model, *batch(), with_values=True, form="flash")


@torch.no_grad()
def test_a_reward_model_on_the_policys_base_runs_with_flash_attention_too(flash: TorchFlash) -> None:
    model = with_flash(make("LlamaConfig"))
    ids, mask = batch()
    ids = ids[:, 12:]
    plain = bare_backbone(model)(input_ids=ids, attention_mask=mask[:, 12:]).last_hidden_state
    share_prompts(model.model, may_share=False)
    flash.bounds.clear()
    packed = bare_backbone(model)(input_ids=ids, attention_mask=mask[:, 12:]).last_hidden_state
    assert flash.bounds == [[0, 12, 13, 18, 26, 33, 45, 48]] * 2
    counted = mask[:, 12:].bool()
    assert torch.allclose(packed[counted], plain[counted], atol=1e-5)
    assert not packed[~counted].any()


def test_a_kernel_that_lets_sequences_see_each_other_keeps_the_plain_pass(caplog: pytest.LogCaptureFixture) -> None:
    with registered("flash_of_one", separates=False):
        model = with_flash(make("LlamaConfig"), "flash_of_one")
        (line,) = lines_of(caplog, model.model, may_share=False)
    assert line.startswith("LlamaModel computes each prompt once per completion: its states would differ by 0.")
    assert model.model.pass_form is None


@pytest.mark.parametrize("name", ["BloomConfig", "MptConfig"])
def test_without_positions_flash_attention_keeps_the_plain_pass(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with registered("flash_alibi", mask=eager_mask):
        backbone = backbone_of(with_flash(make(name), "flash_alibi"))
        (line,) = lines_of(caplog, backbone)
    assert line.endswith("computes each prompt once per completion: it takes no positions.")
    assert backbone.pass_form is None


def test_on_a_gpu_prompts_are_shared_only_where_that_is_requested(
    flash: TorchFlash, caplog: pytest.LogCaptureFixture
) -> None:
    model = make("LlamaConfig")
    assert lines_of(caplog, model.model, may_share=False) == []
    assert model.model.pass_form is None
    assert lines_of(caplog, with_flash(model).model, may_share=False) == []
    assert model.model.pass_form == "flash"
    assert flash.bounds
    assert lines_of(caplog, model.model) == [
        "LlamaModel computes each prompt once per completion: its attention is 'flash_in_torch', which takes no mask "
        "of pairs."
    ]
    assert model.model.pass_form == "flash"


# -- rows ------------------------------------------------------------------------------------------------------------


def packed(sequences: list[list[int]], **options: Any) -> PackedRows:
    """Returns sequences in rows, whatever they cost."""
    rows = pack(sequences, width=64, rows=1000, length=1000, pairs=10**9, **options)
    assert rows is not None
    return rows


def test_rows_hold_what_sequences_begin_with_once() -> None:
    rows = packed([[5, 6, 7], [5, 6, 8, 9], [5, 6]])
    assert rows.input_ids.tolist() == [[5, 6, 7, 8, 9]]
    assert rows.position_ids.tolist() == [[0, 1, 2, 2, 3]]
    assert [places.tolist() for places in rows.places] == [[0, 1, 2], [0, 1, 3, 4], [0, 1]]
    seen = rows.attends()[0].int().tolist()
    assert seen == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [1, 1, 0, 1, 1]]


def test_rows_of_any_cut_hold_the_sequences_they_were_made_of() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        count, width = (int(torch.randint(1, high, (), generator=generator)) for high in (20, 600))
        lengths = torch.randint(1, 15, (count,), generator=generator).tolist()
        sequences = [torch.randint(3, (length,), generator=generator).tolist() for length in lengths]
        rows = pack(sequences, width, 1000, 1000, 10**9)
        assert rows is not None
        for sequence, places in zip(sequences, rows.places, strict=True):
            assert rows.input_ids.flatten()[places].tolist() == sequence
            assert rows.position_ids.flatten()[places].tolist() == list(range(len(sequence)))
            row, place = divmod(int(places[-1]), rows.input_ids.shape[1])
            seen = rows.attends()[row, place].nonzero().flatten() + row * rows.input_ids.shape[1]
            assert seen.tolist() == places.tolist()


def test_the_cut_depends_on_what_attention_costs() -> None:
    prompt = list(range(100, 120))
    sequences = [[first, *prompt, *([10 + second] * (5 + 7 * second))] for first in range(8) for second in range(4)]
    cuts = [pack(sequences, width, 32, 47, 10**9) for width in (4096, 1)]
    wide, narrow = (cut.input_ids.shape for cut in cuts if cut is not None)
    assert wide == (8, 21 + 5 + 12 + 19 + 26)  # a row for each prompt: long rows cost a wide model little
    assert narrow == (24, 47)
    assert cost(*wide, 4096) < cost(*narrow, 4096)
    assert cost(*wide, 1) > cost(*narrow, 1)
    bounded = pack(sequences, 4096, 32, 47, pairs=24 * 47**2)
    assert bounded is not None
    assert bounded.input_ids.shape == (24, 47)


def test_one_row_for_flash_attention_has_no_padding() -> None:
    rows = pack_into_one_row([[5, 6, 7], [5], [5, 6]], 3, 4)
    assert rows is not None
    assert rows.input_ids.tolist() == [[5, 6, 7, 5, 5, 6]]
    assert rows.position_ids.tolist() == [[0, 1, 2, 0, 0, 1]]
    assert rows.lengths == [3, 1, 2]
    assert [places.tolist() for places in rows.places] == [[0, 1, 2], [3], [4, 5]]
    assert pack_into_one_row([[5, 6, 7], [5], [5, 6]], 2, 3) is None


def test_even_sequences_that_differ_are_left_as_they_are() -> None:
    assert pack([[number, *range(10, 30)] for number in range(8)], 64, 8, 21, 10**9) is None

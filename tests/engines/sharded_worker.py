"""The policy's forward under torch's `fully_shard`, against the same model unsharded; run by test_fully_shard.py."""

import copy
import sys
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from peft import LoraConfig, get_peft_model
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from trl.trainer.utils import use_adapter

from lmrl.cli import run
from lmrl.critics import LeastSquaresCritic, attach_critic, make_critic
from lmrl.distributed import unsharded
from lmrl.models import add_scoring_forward, disable_dropout, load_model
from lmrl.trainers.engines import keep_outputs_in_fp32

PROMPTS = torch.tensor([[0, 0, 6, 7, 8], [9, 10, 11, 12, 13], [0, 0, 0, 0, 5], [20, 21, 22, 23, 24]])
COMPLETIONS = torch.tensor([[30, 31, 1, 0], [33, 34, 35, 36], [37, 1, 0, 0], [1, 0, 0, 0]])
IDS = torch.cat([PROMPTS, COMPLETIONS], dim=1)
MASK = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 0], [1] * 9, [0, 0, 0, 0, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 0, 0, 0]])


def forward(model: nn.Module, rows: slice) -> Any:
    """Returns log-probabilities, entropies and values of some of the completions."""
    return model(input_ids=IDS[rows], attention_mask=MASK[rows], completion_length=4, with_values=True)


def loss(scored: Any, rows: slice) -> Tensor:
    """Returns a sum in which every token weighs differently."""
    weights = torch.arange(1.0, 17.0).view(4, 4)[rows]
    return ((scored.log_probs + 0.1 * scored.entropy + (scored.state_values - 1) ** 2) * weights).sum()


def make(path: str, critic: str) -> nn.Module:
    """Returns a policy with a critic whose values differ, and the scoring forward."""
    torch.manual_seed(0)
    model = load_model(path)
    disable_dropout(model)
    attach_critic(model, copy.deepcopy(model.base_model) if critic == "separate" else None)
    nn.init.normal_(model.critic.value.weight)
    add_scoring_forward(model, temperature=0.7)
    return model


def shard(model: nn.Module, wrapping: str, plugin: FullyShardedDataParallelPlugin) -> None:
    """Shards a policy as Accelerate groups it (norm and head together), or with a head in a group of its own."""
    if wrapping == "head apart":
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        fully_shard(head if head.weight is not embedding.weight else [embedding, head])
        fully_shard(model)
        return
    state = SimpleNamespace(fsdp_plugin=plugin)
    accelerator: Any = SimpleNamespace(state=state, mixed_precision="no", is_main_process=True)
    fsdp2_prepare_model(accelerator, model)


def check(path: str, critic: str, wrapping: str) -> None:
    """Checks two steps of gradient descent, unsharded and sharded, with an evaluation before each."""
    rank = distributed.get_rank()
    parts = (slice(0, 2), slice(2, 4))
    local = parts[rank]
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        reshard_after_forward=True,
        cpu_ram_efficient_loading=False,
    )
    unsharded_model, model = make(path, critic), make(path, critic)
    shard(model, wrapping, plugin)
    register_fsdp_forward_method(model, "generate")  # as Trainer does
    for step in range(2):
        evaluate(model, unsharded_model, plugin)
        unsharded_model.zero_grad()
        model.zero_grad()  # now, while its parameters are the shards
        expected = forward(unsharded_model, local)
        scored = forward(model, local)
        for name in ("log_probs", "entropy", "state_values"):
            assert torch.allclose(scored[name], expected[name], atol=1e-5), (step, name)
        (sum(loss(forward(unsharded_model, rows), rows) for rows in parts) / 2).backward()
        loss(scored, local).backward()
        gradients = {name: parameter.grad.full_tensor() for name, parameter in model.named_parameters()}
        assert gradients.keys() == {name for name, _ in unsharded_model.named_parameters()}
        for name, parameter in unsharded_model.named_parameters():
            apart = (gradients[name] - parameter.grad).abs().max() / parameter.grad.abs().max().clamp(min=1e-2)
            assert apart < 1e-4, (step, name, apart, parameter.grad.abs().max())
        for copied in (unsharded_model, model):
            torch.optim.SGD(copied.parameters(), lr=1e-3).step()


def evaluate(model: nn.Module, unsharded_model: nn.Module, plugin: FullyShardedDataParallelPlugin) -> None:
    """Checks that processes may run the model a different number of times, which would hang under sharding."""
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    with unsharded(model, bool(plugin.reshard_after_forward)), torch.no_grad():
        assert not any(isinstance(parameter, DTensor) for parameter in model.parameters())
        for _ in range(1 + 2 * distributed.get_rank()):
            texts = model.generate(IDS[1:2], max_new_tokens=4, do_sample=False)
            logits = model(IDS[:1]).logits
        assert torch.equal(texts, unsharded_model.generate(IDS[1:2], max_new_tokens=4, do_sample=False))
        assert torch.allclose(logits, unsharded_model(IDS[:1]).logits, atol=1e-4)
        distributed.barrier()  # the one that was ready first has not gone on to what both do
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())


def check_precision(path: str) -> None:
    """Checks that in bfloat16 what leaves the forward, and the averaging of gradients, is in float32."""
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        cpu_ram_efficient_loading=False,
        mixed_precision_policy="bf16",
    )
    accelerator: Any = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin), mixed_precision="bf16", is_main_process=True
    )
    keep_outputs_in_fp32(accelerator)
    assert plugin.mixed_precision_policy.reduce_dtype == torch.float32
    unsharded_model, model = make(path, "shared"), make(path, "shared")
    fsdp2_prepare_model(accelerator, model)
    scored = forward(model, slice(0, 2))
    expected = forward(unsharded_model, slice(0, 2))
    for name in ("log_probs", "entropy", "state_values"):
        assert scored[name].dtype == torch.float32, name
    assert torch.allclose(scored.log_probs, expected.log_probs, atol=0.1)  # the layers compute in bfloat16
    assert not torch.equal(scored.log_probs, scored.log_probs.bfloat16().float())


def check_adapter(path: str) -> None:
    """Checks an adapter that is trained further, and its frozen copy: log-probabilities of both, and the gradients."""
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
    )
    policies = []
    for _ in range(2):
        policy = make(path, "shared")
        options = {"target_modules": ["c_attn", "q_proj"], "task_type": "CAUSAL_LM", "init_lora_weights": False}
        policy = get_peft_model(policy, LoraConfig(r=4, **options))
        policy.add_adapter("ref", LoraConfig(r=4, **options))
        policies.append(policy)
    unsharded_model, model = policies
    shard(model, "accelerate", plugin)
    rows = slice(0, 2)
    for name in ("ref", None, "default"):
        with use_adapter(unsharded_model, name), use_adapter(model, name):
            expected = forward(unsharded_model, rows)
            scored = forward(model, rows)
        assert torch.allclose(scored.log_probs, expected.log_probs, atol=1e-5), name
    for policy in policies:
        loss(forward(policy, rows), rows).backward()  # the same rows on both processes
    trained = {name: weight.grad for name, weight in unsharded_model.named_parameters() if weight.grad is not None}
    sharded = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    assert sharded.keys() == trained.keys()
    assert any("lora_A.default" in name for name in trained) and not any(".ref." in name for name in trained)
    for name, gradient in trained.items():
        assert torch.allclose(sharded[name].full_tensor(), gradient, atol=1e-3), name


def check_fitted(path: str) -> None:
    """Checks a critic that is fitted on states of shards, two rows on each process, against one on all four rows."""
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
    )
    local = slice(2 * distributed.get_rank(), 2 * distributed.get_rank() + 2)
    unsharded_model = load_model(path)
    model = load_model(path)
    for copied in (unsharded_model, model):
        make_critic(copied, "least_squares")
        add_scoring_forward(copied)
    shard(model, "accelerate", plugin)
    states = forward(model, local).state_values
    expected = forward(unsharded_model, slice(0, 4)).state_values.detach()
    assert not states.requires_grad and states.shape == (2, 4, unsharded_model.config.hidden_size)
    torch.testing.assert_close(states, expected[local], atol=1e-5, rtol=0)

    mask = MASK[:, -4:]
    totals = torch.tensor([1.0, -2.0, 0.5, 3.0])
    returns = totals.unsqueeze(1) + torch.arange(4.0)
    embeddings = unsharded_model.get_input_embeddings().weight
    used = (0.9, 1, Accelerator(cpu=True), embeddings)
    critic = LeastSquaresCritic(*used)
    alone = LeastSquaresCritic(*used)
    alone._accelerator = SimpleNamespace(reduce=lambda moments, reduction: moments, process_index=0)
    for _ in range(2):  # a first rollout, by its parts, and one that is valued by the sums of the first
        rows = (states, COMPLETIONS[local], states[..., :0], totals, returns[local], mask[local], 1)
        all_rows = (expected, COMPLETIONS, expected[..., :0], totals, returns, mask, 1)
        values, features = critic.value_rollout(*rows)
        values_alone, features_alone = alone.value_rollout(*all_rows)
        torch.testing.assert_close(values, values_alone[local], atol=1e-4, rtol=1e-4)
        critic.update(features, returns[local], mask[local])
        alone.update(features_alone, returns, mask)
    torch.testing.assert_close(critic._moments, alone._moments, atol=1e-4, rtol=1e-4)


def main(path: str) -> None:
    """Makes all checks of one model."""
    distributed.init_process_group("gloo")
    for critic in ("shared", "separate"):
        for wrapping in ("accelerate", "head apart"):
            check(path, critic, wrapping)
    check_precision(path)
    check_adapter(path)
    check_fitted(path)


if __name__ == "__main__":
    run(lambda: main(sys.argv[1]))

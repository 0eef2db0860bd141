"""Learned critics: a value head on the policy's states, on a second adapter of the policy, or on its own backbone."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedType
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from lmrl.models import (
    TrunkAdapter,
    backbone_of,
    base_of,
    copy_backbone,
    disable_dropout,
    load_backbone_and_head,
    share_prompts,
)
from lmrl.utils import known_as

# In a folder of its own: vLLM and others load every `*.safetensors` that lies beside `config.json`.
CRITIC_FILE = "critic/critic.safetensors"


class StateReader(nn.Module):
    """Takes the place of a [`Critic`] where the critic is fitted in closed form: returns states, has no weights."""

    def forward(self, policy_states: Tensor, read: Callable[[nn.Module | None], Tensor]) -> Tensor:
        """Returns the policy's hidden states before each completion token, (M, D)."""
        return policy_states.detach()


class Critic(nn.Module):
    """
    Value of the state before each completion token, computed from hidden states by two layers.

    The head is computed in its own precision, outside autocast, as values are the output of a regression and bfloat16
    has three digits. Its last layer is initialized with zeros, so every value is initially `start`: with the mean
    reward there ([`~Critic.start_at`]), the first advantages are those of the batch-mean baseline. `start` is a buffer
    and not a weight, so that engines which shard weights, or keep a float32 copy of them, leave it alone.

    A critic that starts from a reward model adds the output of that model's head, so that its first values are the
    scores of the texts so far; one that starts from an earlier critic gets all weights of that critic.

    Args:
        hidden_size (`int`):
            Width of the hidden states.
        backbone ([`~transformers.PreTrainedModel`], *optional*):
            A model without LM head, trained together with the head. Without it the critic uses the policy's own
            hidden states, detached: the values then need no second pass, and learning them does not move the policy.
        adapter ([`TrunkAdapter`], *optional*):
            In place of a backbone: an adapter on the policy's layers, trained together with the head.
        score (`torch.nn.Linear`, *optional*):
            Head of a reward model, added to that of the critic.
    """

    gives_states = False  # whether it returns states beside the values, for `train_on_states`

    def __init__(
        self,
        hidden_size: int,
        backbone: PreTrainedModel | None = None,
        adapter: TrunkAdapter | None = None,
        score: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.adapter = adapter
        self.hidden = nn.Sequential(nn.LayerNorm(hidden_size), nn.Linear(hidden_size, hidden_size), nn.Tanh())
        self.value = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)
        self.score = None if score is None else score.float()
        self.has_start = score is not None  # else it is given the mean reward of the first rollout
        self.register_buffer("start", torch.zeros(()))
        self.start: Tensor

    def forward(self, policy_states: Tensor, read: Callable[[nn.Module | None], Tensor]) -> Tensor:
        """
        Returns the values of M states, (M,), float32. The states are the policy's, (M, D), unless the critic has a
        backbone or an adapter: then `read` computes them, by that backbone, or by the policy's if it is given None.
        With `gives_states` it returns values and states side by side, (M, 1 + D).
        """
        if self.backbone is None and self.adapter is None:
            states = policy_states.detach()
        else:
            with nullcontext() if self.adapter is None else self.adapter.active():
                states = read(self.backbone)
        values = self.head(states)
        return torch.cat([values.unsqueeze(-1), states.float()], dim=-1) if self.gives_states else values

    def head(self, states: Tensor) -> Tensor:
        """Returns the values that the head computes of states (..., D): (...), float32."""
        with torch.autocast(states.device.type, enabled=False):
            states = states.to(self.value.weight.dtype)
            values: Tensor = self.value(self.hidden(states))
            if self.score is not None:
                values = values + self.score(states)
        return values.squeeze(-1).float() + self.start.float()

    @torch.no_grad()
    def start_at(self, value: float) -> None:
        """Sets the value that an untrained head returns for every state; one that has a start of its own keeps it."""
        if not self.has_start:
            self.start.fill_(value)


def attach_critic(
    model: PreTrainedModel,
    backbone: PreTrainedModel | None = None,
    adapter: TrunkAdapter | None = None,
    score: nn.Linear | None = None,
) -> Critic:
    """
    Returns a new critic, registered as a submodule of the policy so that every engine wraps and trains it.

    `save_pretrained` leaves it out, so that the policy's folder can be loaded without lmrl; [`save_critic`] writes it.
    The policy is not wrapped by PEFT (pass its base model); backbone, adapter and score are as for [`Critic`].
    """
    config = (model if backbone is None else backbone).config.get_text_config()
    width = getattr(config, "word_embed_proj_dim", config.hidden_size)  # OPT projects its states for its embedding
    critic = Critic(width, backbone, adapter, score).to(device=model.device)
    form = getattr(backbone_of(model), "pass_form", None)
    if backbone is not None and form is not None:
        share_prompts(backbone, may_share=form != "flash")
    model.critic = critic
    ignored = model._keys_to_ignore_on_save or ()
    model._keys_to_ignore_on_save = {*ignored, *(f"critic.{name}" for name in critic.state_dict())}
    return critic


def make_critic(
    policy: PreTrainedModel, kind: str = "shared", name: str | None = None, without_dropout: bool = True
) -> nn.Module:
    """
    Returns a new critic of a kind, attached by [`attach_critic`] to a policy that is out of its engine: `"shared"`, a
    head on the policy's hidden states; `"adapter"`, with a LoRA adapter of its own on the policy's base; `"separate"`,
    with a backbone of its own; `"least_squares"`, a [`StateReader`].

    Args:
        name (`str`, *optional*):
            What it starts from: the folder of a run with a critic of its kind or, for a separate one, a model; of a
            reward model the head is used, too. By default a separate one starts from a copy of the policy's backbone.
        without_dropout (`bool`, *optional*, defaults to `True`):
            Whether a separate backbone trains without dropout.

    Raises:
        ValueError: If the model of `name` has another vocabulary than the policy, or `name` is none of these.
    """
    base = base_of(policy)
    if kind == "least_squares":
        base.critic = StateReader()
        return base.critic
    path = Path(name or "") / CRITIC_FILE
    earlier = None if name is None else _read_critic(path)
    if name is not None and earlier is None and kind != "separate":
        raise ValueError(
            f"`critic_model_name_or_path` must be the folder of a run with critic={kind!r}, got {name!r} without "
            f"{CRITIC_FILE}. A model can be the start of critic='separate' only."
        )
    adapter = TrunkAdapter(base) if kind == "adapter" else None
    backbone: PreTrainedModel | None = None
    score: nn.Linear | None = None
    if kind == "separate":
        backbone, score = _copy_or_load_backbone(policy, base, None if earlier else name)
        if without_dropout:
            disable_dropout(backbone)
    if earlier is not None and "score.weight" in earlier:
        width = earlier["score.weight"].shape[1]
        score = nn.Linear(width, 1, bias="score.bias" in earlier)
    critic = attach_critic(base, backbone, adapter, score)
    if earlier is not None:
        _load_weights(critic, earlier, path)
    return critic


def _copy_or_load_backbone(
    policy: PreTrainedModel, base: PreTrainedModel, name: str | None
) -> tuple[PreTrainedModel, nn.Linear | None]:
    """Returns the backbone of a critic, and the head of the reward model that it is loaded from, or None."""
    if name is None and not getattr(base, "is_quantized", False):
        return copy_backbone(policy), None
    with known_as("critic_model_name_or_path"):
        backbone, score = load_backbone_and_head(name or base.config._name_or_path, dtype=base.dtype)
    policy_size = base.config.get_text_config().vocab_size
    critic_size = backbone.config.get_text_config().vocab_size
    if critic_size != policy_size:
        raise ValueError(
            f"`critic_model_name_or_path` must have the policy's vocabulary of {policy_size} tokens, got {name!r} "
            f"with {critic_size}. The critic reads the policy's tokens: leave it out to start from the policy."
        )
    return backbone, score


def set_critic_learning_rate(optimizer: torch.optim.Optimizer, model: nn.Module, learning_rate: float | None) -> None:
    """
    Puts a critic's weights into parameter groups of their own with a learning rate, if it is not None. An optimizer
    that was made before the critic, and so lacks its weights, gets them in either case.
    """
    critic = [parameter for name, parameter in model.named_parameters() if "critic." in name]
    if not critic:
        return
    critic_ids = {id(parameter) for parameter in critic}
    if critic_ids.isdisjoint(id(parameter) for group in optimizer.param_groups for parameter in group["params"]):
        optimizer.add_param_group({"params": [parameter for parameter in critic if parameter.requires_grad]})
    if learning_rate is None:
        return
    for group in list(optimizer.param_groups):
        critic_params = [parameter for parameter in group["params"] if id(parameter) in critic_ids]
        if not critic_params:
            continue
        if len(critic_params) == len(group["params"]):
            group["lr"] = learning_rate
            continue
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in critic_ids]
        optimizer.add_param_group({**group, "params": critic_params, "lr": learning_rate})


def critic_weights(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the critic's weights out of those of a policy, by their names in the critic."""
    return {name.split("critic.", 1)[1]: weight for name, weight in state_dict.items() if "critic." in name}


def save_critic(state_dict: dict[str, Tensor], folder: str | Path) -> None:
    """
    Writes the critic's weights, by their names in [`Critic`] and gathered from all processes, into the folder of a
    policy, as `critic/critic.safetensors`.
    """
    if not state_dict:  # a critic that is fitted is in the state of the run
        return
    complete = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state_dict.items()}
    path = Path(folder) / CRITIC_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(complete, path, metadata={"format": "pt"})


def load_critic(critic: Critic, folder: str | Path) -> None:
    """Loads what [`save_critic`] wrote; a `ValueError` if the folder holds no critic, or one of another shape."""
    if not critic.state_dict():  # a critic that is fitted is in the state of the run
        return
    path = Path(folder) / CRITIC_FILE
    weights = _read_critic(path)
    if weights is None:
        raise ValueError(
            f"`resume_from_checkpoint` must be a folder with a critic, got one without {path}. To start from its "
            "policy with a new critic, pass the folder as `model_name_or_path`."
        )
    _load_weights(critic, weights, path)


def reload_critic(model: nn.Module, folder: str, accelerator: Accelerator) -> None:
    """
    Loads the critic of a model, if it has one, from the folder of a checkpoint. Not under DeepSpeed or FSDP: their
    checkpoints have the complete module, critic included, and have loaded it already, in shards.
    """
    critic = getattr(base_of(model), "critic", None)
    if critic is not None and accelerator.distributed_type not in (DistributedType.DEEPSPEED, DistributedType.FSDP):
        load_critic(critic, folder)


def _read_critic(path: Path) -> dict[str, Tensor] | None:
    """Returns the weights of a saved critic, or None if there is no such file."""
    return load_file(path) if path.is_file() else None


def _load_weights(critic: Critic, weights: dict[str, Tensor], path: Path) -> None:
    try:
        critic.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"The critic in {path} must have the shape of the one configured, got another. Use the `critic` settings "
            f"of the run that wrote it. {error}"
        ) from error
    critic.has_start = True


def get_critic(model: nn.Module) -> Critic:
    """Returns the critic of a model, be it plain or wrapped by PEFT."""
    return base_of(model).critic

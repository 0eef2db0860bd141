"""The critic: a small head that reads the policy's trunk, the trunk with another adapter, or a backbone of its own."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from .adapters import TrunkAdapter

# In a folder of its own: vLLM and others load every `*.safetensors` that lies beside `config.json`.
CRITIC_FILE = "critic/critic.safetensors"


class Critic(nn.Module):
    """
    Value of the state before each completion token, from hidden states by two layers.

    The head is computed in its own precision, outside autocast: values are regressed on, and bfloat16 has three
    digits. Its last layer starts at zero, so every value starts at `start`: set that to the mean reward with
    [`~Critic.start_at`] and the first advantages are those of the batch-mean baseline. It is no weight, so that an
    engine which holds weights as shards, or a second time in float32, has no part in it.

    Args:
        hidden_size (`int`):
            Width of the hidden states.
        backbone ([`~transformers.PreTrainedModel`], *optional*):
            A model without LM head, trained together with the head. Without it the critic reads the policy's own
            hidden states, detached: the values then cost no second pass, and learning them does not move the policy.
        adapter ([`TrunkAdapter`], *optional*):
            In place of a backbone: an adapter on the policy's, trained together with the head.
    """

    def __init__(
        self, hidden_size: int, backbone: PreTrainedModel | None = None, adapter: TrunkAdapter | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.adapter = adapter
        self.hidden = nn.Sequential(nn.LayerNorm(hidden_size), nn.Linear(hidden_size, hidden_size), nn.Tanh())
        self.value = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)
        self.register_buffer("start", torch.zeros(()))
        self.start: Tensor

    def forward(self, policy_states: Tensor, read: Callable[[nn.Module | None], Tensor]) -> Tensor:
        """
        Returns the values, (B, T), float32.

        Args:
            policy_states (`torch.Tensor` of shape `(B, T, D)`):
                The policy's hidden states before each completion token.
            read (`Callable`):
                Runs a backbone, the policy's if it is given `None`, over the whole sequences and returns its hidden
                states, `(B, L, D)`.
        """
        if self.backbone is None and self.adapter is None:
            states = policy_states.detach()
        else:
            with nullcontext() if self.adapter is None else self.adapter.active():
                states = read(self.backbone)[:, -policy_states.shape[1] - 1 : -1]
        with torch.autocast(states.device.type, enabled=False):
            values: Tensor = self.value(self.hidden(states.to(self.value.weight.dtype)))
        return values.squeeze(-1).float() + self.start.float()

    @torch.no_grad()
    def start_at(self, value: float) -> None:
        """Set the value that an untrained head gives to every state."""
        self.start.fill_(value)


def attach_critic(
    model: PreTrainedModel, backbone: PreTrainedModel | None = None, adapter: TrunkAdapter | None = None
) -> Critic:
    """
    Returns the new critic of a policy, made a part of it so that every engine wraps, trains and counts it.

    `save_pretrained` leaves it out, so that the folder of the policy stays a plain one; [`save_critic`] writes it.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Policy, not wrapped by PEFT (give its base model).
        backbone ([`~transformers.PreTrainedModel`], *optional*):
            Backbone of a separate critic; see [`Critic`].
        adapter ([`TrunkAdapter`], *optional*):
            Adapter of a critic that has one on the policy's backbone.
    """
    config = (model if backbone is None else backbone).config.get_text_config()
    critic = Critic(config.hidden_size, backbone, adapter).to(device=model.device)
    model.critic = critic
    ignored = model._keys_to_ignore_on_save or ()
    model._keys_to_ignore_on_save = {*ignored, *(f"critic.{name}" for name in critic.state_dict())}
    return critic


def save_critic(state_dict: dict[str, Tensor], folder: str | Path) -> None:
    """
    Write the critic's weights into the policy's folder, as `critic/critic.safetensors`.

    Args:
        state_dict (`dict`):
            Weights of the critic by their names in [`Critic`], whole ones (gathered from all processes).
        folder (`str` or `Path`):
            The checkpoint's folder.
    """
    whole = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state_dict.items()}
    path = Path(folder) / CRITIC_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(whole, path, metadata={"format": "pt"})


def load_critic(critic: Critic, folder: str | Path) -> None:
    """
    Load into the critic what [`save_critic`] wrote.

    Args:
        critic ([`Critic`]):
            Critic of the same shape.
        folder (`str` or `Path`):
            The checkpoint's folder.

    Raises:
        ValueError: If the folder holds no critic, or one of another shape.
    """
    path = Path(folder) / CRITIC_FILE
    if not path.is_file():
        raise ValueError(
            f"{path} is not there: this checkpoint has no critic, so PPO cannot go on from it as it was. Give the "
            "folder as `model_name_or_path` instead, and PPO starts with a fresh critic."
        )
    try:
        critic.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise ValueError(f"{path} holds another critic than the one configured: {error}") from error


def get_critic(model: nn.Module) -> Critic:
    """Returns the critic of a model, be it plain or wrapped by PEFT."""
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    return base.critic

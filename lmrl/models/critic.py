"""The critic: a value head on the policy's hidden states, a second adapter of the policy, or its own backbone."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from .adapters import TrunkAdapter
from .loading import backbone_of
from .shared_prompts import share_prompts

# In a folder of its own: vLLM and others load every `*.safetensors` that lies beside `config.json`.
CRITIC_FILE = "critic/critic.safetensors"


class Critic(nn.Module):
    """
    Value of the state before each completion token, computed from hidden states by two layers.

    The head is computed in its own precision, outside autocast, as values are the output of a regression and bfloat16
    has three digits. Its last layer is initialized with zeros, so every value is initially `start`: with the mean
    reward there ([`~Critic.start_at`]), the first advantages are those of the batch-mean baseline. `start` is a buffer
    and not a weight, so that engines which shard weights, or keep a float32 copy of them, leave it alone.

    Args:
        hidden_size (`int`):
            Width of the hidden states.
        backbone ([`~transformers.PreTrainedModel`], *optional*):
            A model without LM head, trained together with the head. Without it the critic uses the policy's own
            hidden states, detached: the values then need no second pass, and learning them does not move the policy.
        adapter ([`TrunkAdapter`], *optional*):
            In place of a backbone: an adapter on the policy's layers, trained together with the head.
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
        Returns the values of M states, (M,), float32.

        Args:
            policy_states (`torch.Tensor` of shape `(M, D)`):
                The policy's hidden states before each completion token.
            read (`Callable`):
                Runs a backbone, the policy's if it is given `None`, and returns its hidden states at the same places.
        """
        if self.backbone is None and self.adapter is None:
            states = policy_states.detach()
        else:
            with nullcontext() if self.adapter is None else self.adapter.active():
                states = read(self.backbone)
        with torch.autocast(states.device.type, enabled=False):
            values: Tensor = self.value(self.hidden(states.to(self.value.weight.dtype)))
        return values.squeeze(-1).float() + self.start.float()

    @torch.no_grad()
    def start_at(self, value: float) -> None:
        """Sets the value that an untrained head returns for every state."""
        self.start.fill_(value)


def attach_critic(
    model: PreTrainedModel, backbone: PreTrainedModel | None = None, adapter: TrunkAdapter | None = None
) -> Critic:
    """
    Returns a new critic, registered as a submodule of the policy so that every engine wraps and trains it.

    `save_pretrained` leaves it out, so that the policy's folder can be loaded without lmrl; [`save_critic`] writes it.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Policy, not wrapped by PEFT (pass its base model).
        backbone ([`~transformers.PreTrainedModel`], *optional*):
            Backbone of a separate critic; see [`Critic`].
        adapter ([`TrunkAdapter`], *optional*):
            Adapter of the critic on the policy's backbone; see [`Critic`].
    """
    config = (model if backbone is None else backbone).config.get_text_config()
    width = getattr(config, "word_embed_proj_dim", config.hidden_size)  # OPT projects its states for its embedding
    critic = Critic(width, backbone, adapter).to(device=model.device)
    if backbone is not None and getattr(backbone_of(model), "shares_prompts", None) is not None:
        share_prompts(backbone)
    model.critic = critic
    ignored = model._keys_to_ignore_on_save or ()
    model._keys_to_ignore_on_save = {*ignored, *(f"critic.{name}" for name in critic.state_dict())}
    return critic


def save_critic(state_dict: dict[str, Tensor], folder: str | Path) -> None:
    """
    Writes the critic's weights, by their names in [`Critic`] and gathered from all processes, into the folder of a
    policy, as `critic/critic.safetensors`.
    """
    complete = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state_dict.items()}
    path = Path(folder) / CRITIC_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(complete, path, metadata={"format": "pt"})


def load_critic(critic: Critic, folder: str | Path) -> None:
    """
    Loads the weights that [`save_critic`] wrote into the folder of a checkpoint.

    Raises:
        ValueError: If the folder holds no critic, or one of another shape.
    """
    path = Path(folder) / CRITIC_FILE
    if not path.is_file():
        raise ValueError(
            f"`resume_from_checkpoint` must be a folder with a critic, got one without {path}. To start from its "
            "policy with a new critic, pass the folder as `model_name_or_path`."
        )
    try:
        critic.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise ValueError(
            f"The critic in {path} must have the shape of the one configured, got another. Use the `critic` settings "
            f"of the run that wrote it. {error}"
        ) from error


def get_critic(model: nn.Module) -> Critic:
    """Returns the critic of a model, be it plain or wrapped by PEFT."""
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    return base.critic

"""The child process of step.py: it sets up a contender, then makes one step for each "go" that it reads."""

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from _common import NUM_GENERATIONS, Settings
from _measure import DEVICE, Channel, StageClock
from _models import load_model, make_model, random_prompts
from torch import Tensor
from transformers import AutoTokenizer, GPT2LMHeadModel, TrainerCallback

BETA = 0.05
LEARNING_RATE = 1e-6


def share_of_even(completions: list[str], **_: Any) -> list[float]:
    """Returns the reward: the share of words with an even number."""
    return [sum(word[-1] in "02468" for word in text.split()) / max(len(text.split()), 1) for text in completions]


# -- plain torch -----------------------------------------------------------------------------------------------------


class Floor:
    """A step in plain torch, with random rewards. In bf16 it decodes with a copy of the weights in bfloat16."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.clock = StageClock()
        self.bf16 = settings.precision == "bf16"
        self.policy = load_model(settings).to(DEVICE)
        # Not `requires_grad_(False)`: if no weight needs a gradient, torch 2.13 copies the LM head for every row of
        # the batch at the prefill, whose last states are not contiguous (it uses `bmm` instead of folding to `mm`).
        self.reference = load_model(settings).to(DEVICE).eval()
        self.decoder = load_model(settings).to(DEVICE, torch.bfloat16) if self.bf16 else self.policy
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
        self.prompts = torch.tensor(random_prompts(settings, settings.prompts), device=DEVICE)

    def step(self) -> dict[str, Any]:
        """Makes one step, and returns the reply for it."""
        self.clock.start()
        with self.clock.stage("generation"):
            ids = self._generate()
        with self.clock.stage("scoring"), torch.no_grad():
            reference = self._log_probs(self.reference, ids).sum(1)
        self.clock.begin_update()
        self.policy.train()
        log_probs = self._log_probs(self.policy, ids).sum(1)
        rewards = torch.rand_like(reference) - BETA * (log_probs.detach() - reference)
        loss = -((rewards - rewards.mean()) * log_probs).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        loss.item()  # Trainer reads each loss too
        reply = self.clock.stop()
        eos = self.settings.vocabulary - 2
        if ids.shape[1] != self.settings.prompt_length + self.settings.new_tokens or (ids >= eos).any():
            raise RuntimeError("A completion ended early.")
        return reply

    @torch.no_grad()
    def _generate(self) -> Tensor:
        if self.bf16:
            torch._foreach_copy_(list(self.decoder.parameters()), list(self.policy.parameters()))
        self.decoder.eval()
        mask = torch.ones_like(self.prompts)
        sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0, "max_new_tokens": self.settings.new_tokens}
        return self.decoder.generate(input_ids=self.prompts, attention_mask=mask, **sampling)

    def _log_probs(self, model: GPT2LMHeadModel, ids: Tensor) -> Tensor:
        """Returns the log-probabilities of the completions' tokens, (B, T)."""
        prompt = self.settings.prompt_length
        length = ids.shape[1]
        before = torch.arange(prompt - 1, length - 1, device=DEVICE)
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=self.bf16):
            logits = model(input_ids=ids, logits_to_keep=before, use_cache=False).logits
        return logits.float().log_softmax(-1).gather(2, ids[:, prompt:].unsqueeze(2)).squeeze(2)


def run_floor(make_floor: Callable[[], Any], channel: Channel) -> None:
    """Makes a step of plain torch for each "go"."""
    channel.mark_imports()
    floor = make_floor()
    channel.send_ready(floor.policy)
    while True:
        channel.wait_for_go()
        channel.send(**floor.step())


# -- trainers --------------------------------------------------------------------------------------------------------


class Gate(TrainerCallback):
    """
    Makes a trainer wait before each step until the parent sends "go". Logging after a step is not timed.

    The reply to a step is sent just before waiting for the next one, so that nothing runs here while others run.
    """

    def __init__(self, channel: Channel, settings: Settings) -> None:
        self.channel = channel
        self.settings = settings
        self.clock = StageClock()
        self._reply: dict[str, Any] | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Sends the last reply and waits, before the rollout: Trainer has only drawn the prompts."""
        if self._reply is None:
            self.channel.send_ready(model)
        else:
            self.channel.send(**self._reply)
        self.channel.wait_for_go()
        self.clock.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stops the clock, after the optimiser's step and zeroing of gradients."""
        self._reply = self.clock.stop()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        """Checks after each step that no completion ended early."""
        length = logs["completions/mean_length"]
        unfinished = logs["completions/clipped_ratio"]
        if length != self.settings.new_tokens or unfinished != 1.0:
            raise RuntimeError(f"Completions ended early: mean length {length}, unfinished {unfinished}.")


def trainer_classes(name: str) -> tuple[Any, Any]:
    """Returns the classes of a trainer and of its configuration."""
    if name == "trl":
        from trl import RLOOConfig, RLOOTrainer

        return RLOOTrainer, RLOOConfig
    from lmrl.trainers import PPOConfig, PPOTrainer, ReinforceConfig, ReinforceTrainer

    return {"reinforce": (ReinforceTrainer, ReinforceConfig), "ppo": (PPOTrainer, PPOConfig)}[name]


def run_trainer(name: str, settings: Settings, channel: Channel) -> None:
    """Trains with a trainer that makes a step for each "go"."""
    from datasets import Dataset

    trainer_class, config_class = trainer_classes(name)
    channel.mark_imports()
    options = {"reinforce": {"baseline": "leave_one_out"}, "ppo": {"critic": "shared"}}.get(name, {})
    args = config_class(
        output_dir=f"{settings.folder}/{name}",
        max_steps=settings.steps + 1,  # killed while waiting for the last: ending would disturb the next contender
        per_device_train_batch_size=settings.prompts,
        gradient_accumulation_steps=1,
        max_completion_length=settings.new_tokens,
        num_generations=NUM_GENERATIONS,
        num_iterations=1,
        beta=BETA,
        learning_rate=LEARNING_RATE,
        bf16=settings.precision == "bf16",
        use_cpu=DEVICE.type == "cpu",
        gradient_checkpointing=False,
        disable_dropout=True,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **options,
    )
    rows = random_prompts(settings, 4 * settings.prompts)
    dataset = Dataset.from_dict({"prompt": [" ".join(f"t{token}" for token in row) for row in rows]})
    gate = Gate(channel, settings)
    trainer = trainer_class(
        model=load_model(settings),
        reward_funcs=share_of_even,
        args=args,
        train_dataset=dataset,
        processing_class=AutoTokenizer.from_pretrained(settings.folder),
        callbacks=[gate],
    )
    gate.clock.listen(trainer)
    trainer.train()


def main() -> None:
    name = sys.argv[1]
    settings = Settings(**json.loads(sys.argv[2]))
    channel = Channel(int(sys.argv[3]))
    torch.set_num_threads(settings.threads)
    if name == "model":
        make_model(settings)
        channel.send()
    elif name == "floor":
        run_floor(lambda: Floor(settings), channel)
    else:
        run_trainer(name, settings, channel)


if __name__ == "__main__":
    main()

"""A contender of benchmark_step.py, which starts this file: it sets up, then makes one step for each "go" it reads."""

import importlib.metadata
import json
import os
import platform
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from benchmark_step import NUM_GENERATIONS, STAGES, Settings
from torch import Tensor
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, TrainerCallback


BETA = 0.05
LEARNING_RATE = 1e-6
EOS_LOGIT = -40.0  # with this one, the EOS is sampled once in 1e22 tokens
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Channel:
    """The pipe to the parent."""

    def __init__(self, descriptor: int) -> None:
        self._replies = os.fdopen(descriptor, "w")
        self._imported = 0

    def send(self, **message: Any) -> None:
        """Send one reply, with the memory so far."""
        print(json.dumps({**message, "peak": peak_memory(), "imported": self._imported}), file=self._replies, flush=True)

    def wait_for_go(self) -> None:
        """Returns when the parent says go, and ends the process when it hangs up."""
        if sys.stdin.readline().strip() != "go":
            raise SystemExit(0)

    def mark_imports(self) -> None:
        """Call when all is imported and nothing is loaded."""
        self._imported = 0 if DEVICE.type == "cuda" else peak_memory()

    def send_ready(self, model: torch.nn.Module) -> None:
        """Tell the parent that the next thing is a step, and on what machine."""
        cuda = DEVICE.type == "cuda"
        self.send(
            kind=DEVICE.type,
            device=torch.cuda.get_device_name() if cuda else f"CPU ({platform.machine()})",
            threads=torch.get_num_threads(),
            torch=torch.__version__,
            trl=importlib.metadata.version("trl"),
            parameters=sum(p.numel() for name, p in model.named_parameters() if "critic." not in name),
        )


def peak_memory() -> int:
    """Returns the largest size so far in bytes: of the tensors on the GPU, or else of the process."""
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss may start at the size of the process that started this one
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def now() -> float:
    """Returns the time in seconds, when the GPU has done all it was given."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class StageClock:
    """Where the time of a step goes, by the same stages for every contender."""

    def start(self) -> None:
        self._stages = dict.fromkeys(STAGES, 0.0)
        self._started = self._update_started = now()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = now()
        yield
        self._stages[name] += now() - started

    def begin_update(self) -> None:
        """From here to the end of the step is the update."""
        self._update_started = now()

    def stop(self) -> dict[str, Any]:
        """Returns the reply for the step: its `seconds` and its `stages`."""
        ended = now()
        self._stages["update"] = ended - self._update_started
        seconds = ended - self._started
        self._stages["other"] = seconds - sum(self._stages.values())
        return {"seconds": seconds, "stages": self._stages}

    def listen(self, trainer: Any) -> None:
        """Time the stages of a trainer at the methods of TRL's that its stages begin and end with."""
        generate, score = trainer._generate_single_turn, trainer._get_per_token_logps_and_entropies
        trainer._generate_single_turn = self._timed("generation", generate)
        trainer._get_per_token_logps_and_entropies = self._timed("scoring", score, unless=torch.is_grad_enabled)
        trainer._calculate_rewards = self._timed("reward", trainer._calculate_rewards)
        compute_loss = trainer._compute_loss

        def loss(*args: Any, **kwargs: Any) -> Tensor:
            self.begin_update()
            return compute_loss(*args, **kwargs)

        trainer._compute_loss = loss

    def _timed(
        self, stage: str, method: Callable[..., Any], unless: Callable[[], bool] = lambda: False
    ) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            if unless():
                return method(*args, **kwargs)
            with self.stage(stage):
                return method(*args, **kwargs)

        return timed


# -- the model -------------------------------------------------------------------------------------------------------


def make_model(settings: Settings) -> None:
    """Write a GPT-2 of random weights, which never samples its EOS, and a tokenizer of words "t0", "t1" ..."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    eos, pad = settings.vocabulary - 2, settings.vocabulary - 1
    vocabulary = {f"t{index}": index for index in range(eos)} | {"<eos>": eos, "<pad>": pad}
    words = Tokenizer(models.WordLevel(vocabulary))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<eos>", pad_token="<pad>", padding_side="left"
    )
    config = GPT2Config(
        vocab_size=settings.vocabulary,
        n_layer=settings.layers,
        n_embd=settings.width,
        n_head=settings.heads,
        n_positions=max(1024, settings.prompt_length + settings.new_tokens),
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        **dict.fromkeys(("eos_token_id", "bos_token_id"), eos),
        pad_token_id=pad,
    )
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)
    # A layer norm's output sums to 0, with a bias of ones to the width: so the logit of a constant row is a constant.
    with torch.no_grad():
        model.transformer.ln_f.bias.fill_(1.0)
        model.transformer.wte.weight[eos:] = EOS_LOGIT / settings.width
    model.save_pretrained(settings.folder)
    tokenizer.save_pretrained(settings.folder)


def load_model(settings: Settings) -> GPT2LMHeadModel:
    """Returns the model in float32."""
    return GPT2LMHeadModel.from_pretrained(settings.folder, dtype=torch.float32)


def random_prompts(settings: Settings, count: int) -> list[list[int]]:
    """Returns the ids of `count` prompts, the same for every contender."""
    draw = random.Random(0)
    return [[draw.randrange(settings.vocabulary - 2) for _ in range(settings.prompt_length)] for _ in range(count)]


def share_of_even(completions: list[str], **_: Any) -> list[float]:
    """Returns the reward: the share of words with an even number."""
    return [sum(word[-1] in "02468" for word in text.split()) / max(len(text.split()), 1) for text in completions]


# -- plain torch -----------------------------------------------------------------------------------------------------


class Floor:
    """A step in plain torch, rewards drawn at random. In bf16 it decodes from a copy of the weights in bfloat16."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.clock = settings, StageClock()
        self.bf16 = settings.precision == "bf16"
        self.policy = load_model(settings).to(DEVICE)
        self.reference = load_model(settings).to(DEVICE).eval().requires_grad_(False)
        self.decoder = self.policy
        if self.bf16:
            self.decoder = load_model(settings).to(DEVICE, torch.bfloat16).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
        self.prompts = torch.tensor(random_prompts(settings, settings.prompts), device=DEVICE)

    def step(self) -> dict[str, Any]:
        """Returns the reply of one step."""
        self.clock.start()
        with self.clock.stage("generation"):
            ids = self._generate()
        with self.clock.stage("scoring"), torch.no_grad():
            reference = self._logps(self.reference, ids).sum(1)
        self.clock.begin_update()
        self.policy.train()
        logps = self._logps(self.policy, ids).sum(1)
        rewards = torch.rand_like(reference) - BETA * (logps.detach() - reference)
        loss = -((rewards - rewards.mean()) * logps).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        loss.item()  # Trainer looks at each loss too
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

    def _logps(self, model: GPT2LMHeadModel, ids: Tensor) -> Tensor:
        """The log-probabilities of the completions' tokens, (B, T)."""
        prompt, length = self.settings.prompt_length, ids.shape[1]
        before = torch.arange(prompt - 1, length - 1, device=DEVICE)
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=self.bf16):
            logits = model(input_ids=ids, logits_to_keep=before, use_cache=False).logits
        return logits.float().log_softmax(-1).gather(2, ids[:, prompt:].unsqueeze(2)).squeeze(2)


def run_floor(settings: Settings, channel: Channel) -> None:
    """Make the steps of plain torch."""
    channel.mark_imports()
    floor = Floor(settings)
    channel.send_ready(floor.policy)
    for _ in range(settings.steps):
        channel.wait_for_go()
        channel.send(**floor.step())


# -- trainers --------------------------------------------------------------------------------------------------------


class Gate(TrainerCallback):
    """Lets a trainer through one step at a time. What is logged after a step is not counted, for none of them."""

    def __init__(self, channel: Channel, settings: Settings) -> None:
        self.channel, self.settings, self.clock = channel, settings, StageClock()
        self._reply: dict[str, Any] | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Before the rollout: Trainer has only drawn the prompts."""
        if state.global_step == 0:
            self.channel.send_ready(model)
        self.channel.wait_for_go()
        self.clock.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After the optimiser's step and zeroing the gradients."""
        self._reply = self.clock.stop()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        """Comes after each step, and once more at the end."""
        if self._reply is None:
            return
        length, unfinished = logs["completions/mean_length"], logs["completions/clipped_ratio"]
        if length != self.settings.new_tokens or unfinished != 1.0:
            raise RuntimeError(f"Completions ended early: mean length {length}, unfinished {unfinished}.")
        self.channel.send(**self._reply)
        self._reply = None


def trainer_classes(name: str) -> tuple[Any, Any]:
    """Returns the classes of a trainer and of its configuration."""
    if name == "trl":
        from trl import RLOOConfig, RLOOTrainer

        return RLOOTrainer, RLOOConfig
    from lmrl.trainers import PPOConfig, PPOTrainer, ReinforceConfig, ReinforceTrainer

    return {"reinforce": (ReinforceTrainer, ReinforceConfig), "ppo": (PPOTrainer, PPOConfig)}[name]


def run_trainer(name: str, settings: Settings, channel: Channel) -> None:
    """Make the steps of a trainer."""
    from datasets import Dataset

    trainer_class, config_class = trainer_classes(name)
    channel.mark_imports()
    own = {"reinforce": {"baseline": "leave_one_out"}, "ppo": {"critic": "shared"}}.get(name, {})
    args = config_class(
        output_dir=f"{settings.folder}/{name}",
        max_steps=settings.steps,
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
        **own,
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
    name, settings, channel = sys.argv[1], Settings(**json.loads(sys.argv[2])), Channel(int(sys.argv[3]))
    torch.set_num_threads(settings.threads)
    if name == "model":
        make_model(settings)
        channel.send()
    elif name == "floor":
        run_floor(settings, channel)
    else:
        run_trainer(name, settings, channel)


if __name__ == "__main__":
    main()

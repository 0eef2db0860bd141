"""The child process of rollout.py: a model whose completions have given lengths, and a step for each "go"."""

import json
import math
import random
import sys
from dataclasses import dataclass
from typing import Any

import torch
from _contender import Gate, run_floor, trainer_classes
from _measure import DEVICE, Channel, StageClock
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, GPT2Config, LlamaConfig

BETA = 0.05
LEARNING_RATE = 1e-6
SURE = 12.0  # by how much the logits of the tokens that may follow exceed all others


@dataclass(frozen=True)
class Workload:
    """
    A model, its batch, and lengths in tokens: prompts have uniform lengths, completions normal ones within [1,
    longest].
    """

    title: str
    architecture: str
    layers: int
    width: int
    heads: int
    vocabulary: int
    prompts: int
    group: int
    prompt_low: int
    prompt_high: int
    mean: float
    deviation: float
    longest: int
    lora: bool = False
    precision: str = "fp32"
    trl_batch: int = 0  # rows of each of TRL's passes with gradient, if all at once need too much memory
    attention: str = "sdpa"
    scoring_pass: str = "auto"
    folder: str = ""
    threads: int = 1
    steps: int = 1


def make_model(load: Workload) -> None:
    """
    Writes a model with random weights whose completions have the lengths of a workload, and its tokenizer.

    Every token has an age, and is followed by a token whose age is one more, or by EOS, with a probability for each
    age that results in the distribution of lengths. For this the LM head is not tied to the embeddings.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    eos = load.vocabulary - 2
    vocabulary = {f"t{index}": index for index in range(eos)} | {"<eos>": eos, "<pad>": eos + 1}
    words = Tokenizer(models.WordLevel(vocabulary))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<eos>", pad_token="<pad>", padding_side="left"
    )
    ids = {"eos_token_id": eos, "bos_token_id": eos, "pad_token_id": eos + 1, "vocab_size": load.vocabulary}
    shared: dict[str, Any] = {**ids, "tie_word_embeddings": False}
    if load.architecture == "gpt2":
        dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        config: Any = GPT2Config(n_layer=load.layers, n_embd=load.width, n_head=load.heads, **dropout, **shared)
    else:
        config = LlamaConfig(
            num_hidden_layers=load.layers,
            hidden_size=load.width,
            intermediate_size=load.width * 8 // 3,
            num_attention_heads=load.heads,
            num_key_value_heads=max(load.heads // 3, 1),
            **shared,
        )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    _set_lengths(model, load, eos)
    model.save_pretrained(load.folder)
    tokenizer.save_pretrained(load.folder)


@torch.no_grad()
def _set_lengths(model: Any, load: Workload, eos: int) -> None:
    ages = load.longest + 1
    embedding = model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight
    directions = nn.init.orthogonal_(torch.empty(ages, load.width))
    age = torch.arange(eos) % ages
    embedding[:eos] += 20 * directions[age]  # much larger than what the layers add
    # The state after a token is about `directions[age]`, scaled to the norm sqrt(width).
    head.zero_()
    successor = age > 0
    head[:eos][successor] = SURE / math.sqrt(load.width) * directions[age[successor] - 1]
    density = torch.exp(-(((torch.arange(1, ages) - load.mean) / load.deviation) ** 2) / 2)
    for previous in range(1, ages):
        hazard = float((density[previous - 1] / density[previous - 1 :].sum()).clamp(1e-6, 1 - 1e-6))
        count = int((age == (previous + 1) % ages).sum())
        logit = SURE + math.log(count * hazard / (1 - hazard))
        head[eos] += logit / math.sqrt(load.width) * directions[previous]


def random_prompts(load: Workload, count: int) -> list[list[int]]:
    """Returns the ids of prompts, the same for every child; the last token of each prompt has age 0."""
    draw = random.Random(0)
    ages = load.longest + 1
    lengths = [draw.randint(load.prompt_low, load.prompt_high) for _ in range(count)]
    newest = (load.vocabulary - 2) // ages
    return [
        [*(draw.randrange(load.vocabulary - 2) for _ in range(length - 1)), draw.randrange(newest) * ages]
        for length in lengths
    ]


def load_model(load: Workload) -> Any:
    """
    Returns the model in float32, or in bfloat16 for a flash attention kernel, which requires it; with LoRA on all
    linear layers if the workload has it.
    """
    dtype = torch.bfloat16 if "flash" in load.attention else torch.float32
    model = AutoModelForCausalLM.from_pretrained(load.folder, dtype=dtype, attn_implementation=load.attention)
    if load.lora:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    return model


class PositionCounter:
    """Counts the positions that the watched models compute, while completions are generated and in other passes."""

    def __init__(self, clock: StageClock) -> None:
        self.clock = clock
        self.drawn = self.scored = self.useful = 0

    def watch(self, model: Any) -> None:
        """Counts the positions of a model, too."""

        def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if self.is_drawing:
                self.drawn += inputs[0].numel()
            else:
                self.scored += inputs[0].numel()

        model.get_input_embeddings().register_forward_pre_hook(count)

    is_drawing = False

    def reply(self, passes: int) -> dict[str, float]:
        """Returns the positions computed per useful one (of distinct prompts and completions), and resets."""
        useful = max(self.useful, 1)
        found = {"drawn": self.drawn / useful, "scored": self.scored / useful / passes}
        self.drawn = self.scored = self.useful = 0
        return found


# -- plain torch -----------------------------------------------------------------------------------------------------


class Floor:
    """
    A step in plain torch that computes only useful positions: each prompt once, without rows that have ended, and with
    passes over rows of equal length that have as many positions as there are tokens. Rewards are random.
    """

    def __init__(self, load: Workload) -> None:
        self.load = load
        self.clock = StageClock()
        self.policy = load_model(load).to(DEVICE)
        self.reference = None if load.lora else load_model(load).to(DEVICE).eval()
        weights = [weight for weight in self.policy.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=0.0)
        self.prompts = random_prompts(load, load.prompts)

    def step(self) -> dict[str, Any]:
        """Makes one step, and returns its reply."""
        self.clock.start()
        with self.clock.stage("generation"), torch.no_grad(), self._autocast():
            lengths = self._generate()
        completed = int(lengths.sum())
        total = sum(map(len, self.prompts)) + completed
        width = max(total // (self.load.prompts * self.load.group), 2)
        ids = torch.randint(self.load.vocabulary - 2, (total // width, width), device=DEVICE)
        with self.clock.stage("scoring"), torch.no_grad(), self._autocast():
            self._log_probs(ids, completed, is_reference=True)
        self.clock.begin_update()
        self.policy.train()
        with self._autocast():
            log_probs = self._log_probs(ids, completed)
        (-(torch.rand_like(log_probs) * log_probs).mean()).backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return self.clock.stop() | {"positions": {"drawn": 1.0, "scored": 1.0}}

    def _autocast(self) -> Any:
        return torch.autocast(DEVICE.type, torch.bfloat16, enabled=self.load.precision == "bf16")

    def _generate(self) -> Tensor:
        """Generates, and returns the lengths of completions; prompts have the mean length, without padding."""
        load = self.load
        self.policy.eval()
        lengths = torch.normal(load.mean, load.deviation, (load.prompts * load.group,))
        lengths = lengths.round().clamp(1, load.longest).long()
        mean = sum(map(len, self.prompts)) // load.prompts
        ids = torch.randint(load.vocabulary - 2, (load.prompts, mean), device=DEVICE)
        cache = DynamicCache(config=self.policy.config)
        self.policy(input_ids=ids, past_key_values=cache, logits_to_keep=1)
        cache.batch_repeat_interleave(load.group)
        left = lengths.clone()
        tokens = ids[:, :1].repeat_interleave(load.group, dim=0)
        for _ in range(1, load.longest):
            left -= 1
            if not (left > 0).any():
                break
            if (left <= 0).sum() * 8 >= len(left):
                alive = (left > 0).nonzero().flatten()
                left, tokens = left[alive], tokens[alive]
                cache.batch_select_indices(alive)
            logits = self.policy(input_ids=tokens, past_key_values=cache).logits[:, -1]
            tokens = torch.multinomial(logits.float().softmax(-1), 1)
        return lengths

    def _log_probs(self, ids: Tensor, count: int, is_reference: bool = False) -> Tensor:
        """Returns the log-probabilities of the first `count` tokens, (count,)."""
        model = self.policy if self.reference is None or not is_reference else self.reference
        base = model.get_base_model() if self.load.lora else model
        states = base.base_model(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)[:count]
        logits = base.get_output_embeddings()(states).float()
        return logits.log_softmax(-1).gather(1, ids.flatten()[:count, None]).squeeze(1)


# -- trainers --------------------------------------------------------------------------------------------------------


class RolloutGate(Gate):
    """Adds the positions of a step to its reply."""

    counter: PositionCounter

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After the optimizer's step."""
        super().on_step_end(args, state, control)
        assert self._reply is not None
        self._reply["positions"] = self.counter.reply(passes=2)

    def on_log(self, *_: Any, **__: Any) -> None:
        """Checks nothing: completions may have any length here."""


def _watch(trainer: Any, counter: PositionCounter, clock: StageClock) -> None:
    clock.listen(trainer)
    counter.watch(trainer.model)
    reference = getattr(trainer, "ref_model", None)
    if reference is not None:
        counter.watch(reference)
    if hasattr(trainer, "scorer"):  # lmrl scores once the rewards are known
        trainer.scorer.score = clock._timed("scoring", trainer.scorer.score)
    generate = trainer._generate_single_turn

    def generated(prompts: list[list[int]], *args: Any) -> Any:
        counter.is_drawing = True
        completions = generate(prompts, *args)
        counter.is_drawing = False
        counter.useful = sum(map(len, {tuple(ids) for ids in prompts})) + sum(map(len, completions))
        return completions

    trainer._generate_single_turn = generated


def even_share(completions: list[str], **_: Any) -> list[float]:
    """Returns the reward: the share of words with an even number."""
    return [sum(word[-1] in "02468" for word in text.split()) / max(len(text.split()), 1) for text in completions]


def run_trainer(name: str, load: Workload, channel: Channel) -> None:
    """Makes the steps of a trainer."""
    from datasets import Dataset

    trainer_class, config_class = trainer_classes(name)
    channel.mark_imports()
    completions = load.prompts * load.group
    batch = load.trl_batch or completions if name == "trl" else completions
    own: dict[str, dict[str, Any]] = {"reinforce": {"baseline": "leave_one_out"}, "ppo": {"critic": "shared"}}
    options = own[name] | {"scoring_pass": load.scoring_pass} if name in own else {}
    args = config_class(
        output_dir=f"{load.folder}/{name}",
        max_steps=load.steps + 1,  # waits to be killed before the last
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=completions // batch,
        max_completion_length=load.longest,
        num_generations=load.group,
        num_iterations=1,
        beta=BETA,
        learning_rate=LEARNING_RATE,
        bf16=load.precision == "bf16",
        use_cpu=DEVICE.type == "cpu",
        gradient_checkpointing=False,
        disable_dropout=True,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **options,
    )
    prompts = [" ".join(f"t{token}" for token in row) for row in random_prompts(load, 4 * load.prompts)]
    gate = RolloutGate(channel, load)
    gate.counter = PositionCounter(gate.clock)
    trainer = trainer_class(
        model=load_model(load),
        reward_funcs=even_share,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=AutoTokenizer.from_pretrained(load.folder),
        callbacks=[gate],
    )
    _watch(trainer, gate.counter, gate.clock)
    trainer.train()


def main() -> None:
    name = sys.argv[1].split("@")[0]
    load = Workload(**json.loads(sys.argv[2]))
    channel = Channel(int(sys.argv[3]))
    torch.set_num_threads(load.threads)
    if name == "model":
        make_model(load)
        channel.send()
    elif name == "floor":
        run_floor(lambda: Floor(load), channel)
    else:
        run_trainer(name, load, channel)


if __name__ == "__main__":
    main()

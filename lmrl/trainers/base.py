"""The policy-gradient trainer: every override of TRL's and transformers' trainers is in this file."""

import copy
import functools
import weakref
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import is_peft_model
from datasets import IterableDataset
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProgressCallback, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput
from trl import RLOOTrainer
from trl.models.utils import disable_gradient_checkpointing

from lmrl import core, models
from lmrl.log_file import LogFile

from . import arguments, checkpointing, critics, engines, policies, startup_checks
from .callbacks import TrainingProgress
from .configs import PolicyGradientConfig
from .finite import FiniteChecks
from .meter import Meter
from .reference import Reference, make_frozen_model
from .reward_checks import RewardError, checked_rewards, load_reward_states, raise_on_all_ranks, reward_states
from .rollout import Credit, Rollout
from .scorer import Scorer


class PolicyGradientTrainer(RLOOTrainer):
    """
    From prompts to scored completions, from credit to an update: the part that all algorithms share.

    A subclass implements [`~PolicyGradientTrainer.credit`] and [`~PolicyGradientTrainer.loss`]. The walk of a batch,
    by the numbers of the comments in this file: prompts are sampled from (1), and the reward functions score the
    texts (2); one pass of the policy gives the log-probabilities of the rollout, and a critic's values, which is the
    training pass where a rollout serves one update (3); one pass of the reference gives its log-probabilities (4);
    `credit` turns rewards into advantages (5); `loss` is computed for each batch, and the optimizer makes a step (6).

    Args:
        model (`str` or `Path` or [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Policy. The reference is a frozen copy of it as given; with LoRA it is the model without the new adapter.
            `args.reference_model_name_or_path` names another.
        reward_funcs (`Callable` or `list[Callable]`):
            Functions of `prompts`, `completions` and the dataset's columns.
        args ([`PolicyGradientConfig`], *optional*):
            Configuration, of the class `config_class`. The trainer works on a copy of it.
        train_dataset ([`~datasets.Dataset`] or list of `dict`):
            Rows with a `"prompt"` and the columns that the rewards read.
        held_out_metrics (`Callable` or `dict[str, Callable]`, *optional*):
            What [`~transformers.Trainer.evaluate`] measures: a function of the policy that returns metrics by name,
            which become `eval_<name>`; of several sets one for each. Every process calls it, and must get the same. By
            default it is the reward of sampled completions of `eval_dataset`.
        eval_dataset, processing_class, callbacks, optimizers, quantization_config, peft_config (*optional*):
            As for [`~trl.RLOOTrainer`]. An optimizer gets the critic's weights too.

    Attributes:
        name (`str`), paper (`dict`), citation (`str`, *optional*), reported_settings (`tuple[str, ...]`):
            Of the class: its algorithm, `title` and arXiv `id` of a paper, BibTeX, the fields that describe a run.
        meter ([`Meter`]), reference ([`Reference`]), scorer ([`Scorer`]):
            Logging over all processes, the KL penalty, and passes of a model over completions.
        model_card (`str`, *optional*):
            Model card to save in place of TRL's draft.
    """

    name = "policy-gradient"
    paper: Mapping[str, str] = {}
    citation: str | None = None
    reported_settings: tuple[str, ...] = ("num_iterations", "epsilon", "normalize_advantages")
    model_card: str | None = None
    config_class: type[PolicyGradientConfig] = PolicyGradientConfig

    # The same facts under TRL's names.
    _name = property(lambda self: self.name)
    _paper = property(lambda self: {**self.paper, "citation": self.citation})
    _tag_names = property(lambda self: ["trl", "lmrl", self.name.lower()])

    def __init__(
        self,
        model: str | Path | PreTrainedModel,
        reward_funcs: Any,
        args: PolicyGradientConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        reward_processing_classes: None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        quantization_config: Any = None,
        peft_config: Any = None,
        held_out_metrics: Any = None,
    ) -> None:
        rewards = checked_rewards(reward_funcs)
        args = args or arguments.new_config(self.config_class, model, self.name)
        train_dataset, eval_dataset = policies.as_dataset(train_dataset), policies.as_dataset(eval_dataset)
        others = (held_out_metrics, reward_processing_classes, quantization_config, peft_config)
        arguments.check(self.config_class, model, rewards, args, train_dataset, eval_dataset, *others)
        options = policies.loading_options(args, quantization_config)
        model, processing_class = models.load_policy(model, processing_class, **options)
        given_adapter = policies.adapter_weights(model)
        given_policy = policies.copy_before_adapter(model, peft_config, args)

        # TRL would load a reference from disk (lmrl's is a copy of the policy as given), and warn of the options.
        own_args = copy.deepcopy(args)
        hidden = {"beta": 0.0, "sync_ref_model": False, "model_init_kwargs": None}
        own_args.__dict__.update(hidden)
        given = (model, list(rewards), own_args, train_dataset, eval_dataset, processing_class)
        super().__init__(*given, None, callbacks, optimizers, None, peft_config)
        own_args.__dict__.update({name: getattr(args, name) for name in hidden})
        self.beta = args.beta

        self.held_out_metrics = held_out_metrics
        # A weak reference: in a cycle the trainer, its optimizer and its rollouts would outlive their last use.
        this = weakref.proxy(self)
        self.meter = Meter(self.accelerator, self._metrics, lambda: "train" if this.model.training else "eval")
        self.scorer = Scorer(self.accelerator)
        self._decoding = None if self.use_vllm else models.DecodingWeights(self.accelerator.mixed_precision)
        self._finite = FiniteChecks(self.args)
        self._writer = checkpointing.CheckpointWriter(self.args.should_save, self.args.save_total_limit)
        # What `_calculate_rewards` has, which TRL calls in `_generate_and_score_completions` and keeps to itself.
        self._rewards_per_func: Tensor
        self._extra_rewards: dict[str, Tensor]
        self._resumed_state: dict[str, Any] | None = None
        self._train_sampler: Any = None
        self._passes = 0  # of a stream, before the one in which the run was resumed
        self._prepare_models(given_adapter, given_policy)
        experts_loss = self.router_aux_loss_coef if self.aux_loss_enabled else 0.0
        arguments.check_training(*optimizers, self.model, self.has_critic, experts_loss)
        self.add_callback(LogFile(self.meter.newest["train"]))
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(TrainingProgress)

    def _prepare_models(self, given_adapter: dict[str, Tensor], given_policy: PreTrainedModel | None) -> None:
        policies.prepare(self.model, given_adapter, self.args.disable_dropout)
        engines.keep_outputs_in_fp32(self.accelerator)
        with self.gathered_policy() as policy:
            reference = make_frozen_model(policy, given_policy, self._tokenizer, self.args)
            models.add_scoring_forward(self._base_model, self.temperature)
            models.check_scoring_forward(self._base_model, self.temperature, self.args.scoring_pass)
            if self.args.startup_checks:
                startup_checks.check_padding(self._base_model)
            critic = self.create_critic(policy)
        self.has_critic = critic is not None
        engines.match_dtype(critic, self._base_model, self.accelerator)
        startup_checks.check_eos(self.eos_token_ids, self._base_model.config.get_text_config().vocab_size)
        self._check_prompts = startup_checks.prompt_check(self._base_model, reference, self.args)
        sets = {"train_dataset": self.train_dataset} | arguments.sampled_sets(self.eval_dataset, self.held_out_metrics)
        startup_checks.check_rows(sets, self._tokenizer, self.args, self._check_prompts)
        self.reference = Reference(reference, self.args, self.accelerator)
        self.ref_model = self.reference.model
        if self.args.sync_ref_model:
            self.add_callback(self.reference.sync_callback(self.model))
        if self.use_vllm:
            engines.send_policy_to_vllm(self.vllm_generation)
        if is_peft_model(self.model) and not (self.is_deepspeed_enabled or self.is_fsdp_enabled):
            models.offer_base_model(self._base_model, [reward.reward_func for reward in self.reward_funcs])

    # -- to be implemented by subclasses -----------------------------------------------------------------------------

    def credit(self, rollout: Rollout) -> Credit:
        """Returns the credit of a rollout: all completions of this process, in the order of generation."""
        raise NotImplementedError

    def loss(self, scored: models.ScoredCompletions, rollout: Rollout) -> Tensor:
        """
        Returns the scalar loss of a batch, on a scale that does not depend on how a rollout is cut into batches.

        `scored` is the policy's forward, with gradient, and `rollout` rows with their credit: never write to either.
        """
        raise NotImplementedError

    # -- hooks that subclasses may implement -------------------------------------------------------------------------

    def create_critic(self, policy: PreTrainedModel) -> models.Critic | None:
        """Returns a new critic, attached by [`~lmrl.models.attach_critic`], to train at the `critic_learning_rate`."""
        return None

    def on_first_rewards(self, rewards: Tensor) -> None:
        """Called once with the first rewards of this process, (B,), before any pass over the completions."""

    def extra_rewards(self, inputs: list[dict[str, Any]], prompts: list[Any]) -> dict[str, Tensor]:
        """Returns further rewards of a rollout's rows, (B,) each, which become fields or `extra` of the rollout."""
        return {}

    def run_state_dict(self) -> dict[str, Any]:
        """Returns the state that checkpoints have beside Trainer's, as JSON can hold it. A subclass adds its own."""
        return {
            "step": self._step,
            "rewards": reward_states(self.reward_funcs),
            "metrics": self.meter.state_dict(),
            "loss": float(self._tr_loss),
            "last_logged": self._globalstep_last_logged,
            "stream": checkpointing.place_in_stream(self.state, self.args.gradient_accumulation_steps),
            **self.reference.state_dict(self.beta),
        }

    def load_run_state_dict(self, state: dict[str, Any]) -> None:
        """Loads what [`~PolicyGradientTrainer.run_state_dict`] returned."""
        self._step = state["step"]
        load_reward_states(self.reward_funcs, state["rewards"])
        self.meter.load_state_dict(state["metrics"])
        self.beta = self.reference.restored_coefficient(self.beta, state)

    # -- for subclasses and users ------------------------------------------------------------------------------------

    def gathered_policy(self) -> AbstractContextManager[PreTrainedModel]:
        """
        Returns a context with the policy complete on every process, whatever the engine, to evaluate it:

            with trainer.gathered_policy() as policy:
                evaluation = evaluate_model(policy, tokenizer, rows, Decoding(max_new_tokens=64))

        Under ZeRO-3 and FSDP weights are shards outside of it, and a process that runs the policy once more than the
        others waits for ever. All processes must enter and leave it together.
        """
        return engines.gathered_policy(self.model_wrapped, self.accelerator, self.args.gradient_checkpointing_kwargs)

    @property
    def serves_one_update(self) -> bool:
        """Whether a rollout serves one update in one batch: its old log-probabilities are those of the update."""
        return not self.model.training or (self.num_iterations == 1 and self.args.steps_per_generation == 1)

    @property
    def completions_per_prompt(self) -> int:
        """Number of completions of each prompt, side by side once gathered: before, some may be on another process."""
        return self.num_generations if self.model.training else self.num_generations_eval

    def local_rows(self, gathered: Tensor) -> Tensor:
        """Returns the rows of this process, (B, ...), out of those of all, (N, ...)."""
        return gathered.chunk(self.accelerator.num_processes)[self.accelerator.process_index]

    @property
    def _base_model(self) -> PreTrainedModel:
        return engines.base_model(self.model, self.accelerator)

    # -- the walk of a batch -----------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        # 1. and 2. TRL samples and calls the rewards, by way of the next three methods.
        sampled = super()._generate_and_score_completions(inputs)
        has_ended = core.ended(sampled["completion_ids"], sampled["completion_mask"], self.eos_token_ids)
        rewards = self.total_rewards(self._rewards_per_func, has_ended)
        lengths = self.meter.log_rewards(rewards, sampled["completion_mask"].sum(dim=1), has_ended)
        rollout = Rollout.from_sampled(sampled, rewards, lengths, self._extra_rewards)
        is_first = self.model.training and self._step == 0 and self.state.global_step == 0
        if is_first:
            self.on_first_rewards(rewards)
        args = self.args
        batch_size = args.per_device_train_batch_size if self.model.training else args.per_device_eval_batch_size
        without_checkpoints = disable_gradient_checkpointing(self.model, args.gradient_checkpointing_kwargs)
        with self.meter.clock("scoring"), without_checkpoints:
            # 3. and 4. The policy that sampled, and the reference.
            rollout = self.scorer.score(
                rollout, self.model, self.reference, batch_size, not self.serves_one_update, self.has_critic
            )
        # 5. Credit, unless it waits for the log-probabilities of the training pass.
        if not self.serves_one_update:
            rollout = self._with_credit(rollout)
        if is_first and args.startup_checks:
            startup_checks.check_first_rollout(rollout, self.model, self.scorer, self.eos_token_ids, args)
        return rollout.to_dict()

    def _generate_single_turn(self, prompt_ids: list[list[int]], images: Any, *args: Any) -> list[list[int]]:
        self._check_prompts("this rollout", prompt_ids, images=images)
        policy = (self._base_model, self.model_wrapped, self.accelerator)
        with self.meter.clock("generation"), engines.decoding_policy(*policy, self._decoding, self.args):
            return super()._generate_single_turn(prompt_ids, images, *args)

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, None, None]:
        # TRL scores for its own advantages, which are not used: steps 3 and 4 come when the rewards are known.
        return input_ids.new_zeros(len(input_ids), logits_to_keep, dtype=torch.float32), None, None

    def _calculate_rewards(self, inputs: list[dict[str, Any]], prompts: list[Any], *args: Any) -> Tensor:
        states = reward_states(self.reward_funcs)
        try:
            self._rewards_per_func = self.call_rewards(inputs, prompts, *args)
            self._extra_rewards = self.extra_rewards(inputs, prompts)
        except RewardError:
            load_reward_states(self.reward_funcs, states)  # the run that goes on from here scores these prompts again
            raise
        return self._rewards_per_func

    def call_rewards(self, *args: Any) -> Tensor:
        """Returns the rewards of completions of all processes by each function, (N, F), checked on all of them."""
        with self.meter.clock("reward"):
            per_func = super()._calculate_rewards(*args)
        raise_on_all_ranks(self.reward_funcs)
        return per_func

    def total_rewards(self, per_func: Tensor, has_ended: Tensor) -> Tensor:
        """Returns the rewards of this process that are trained on, (B,), of those of all, (N, F), by function."""
        rewards = self.local_rows(core.weighted_rewards(per_func, self.reward_weights, self.reward_clip_range))
        if self.args.missing_eos_penalty is not None:
            rewards = rewards - self.args.missing_eos_penalty * (~has_ended)
        return rewards

    def _with_credit(self, rollout: Rollout) -> Rollout:
        kl = None
        if rollout.ref_log_probs is not None:
            kl = self.meter.log_kl(rollout, self.beta)
            self._finite.check_forward("the KL to the reference", kl, self.state.global_step)
        rollout = rollout.with_credit(self.credit(rollout))
        self.meter.log_advantages(rollout.advantages, rollout.completion_mask, self._logs)
        if kl is not None and self.model.training:
            self.beta = self.reference.next_coefficient(self.beta, kl)
            self.control.should_training_stop |= self.reference.is_too_far(kl, self.state.global_step)
        return rollout

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        # 6. The loss of a batch.
        rollout = Rollout.from_dict(inputs)
        if self.serves_one_update:
            rollout = rollout.in_order_of_generation()
        scored = self.scorer.forward(model, rollout, self.has_critic)
        if self.serves_one_update:
            # 3. and 5. By the very pass that is trained on.
            rollout = self._with_credit(rollout.with_policy_pass(scored))
        entropy = self.meter.log_mean("entropy", scored.entropy, rollout.completion_mask)
        self._finite.check_forward("the entropy", entropy, self.state.global_step)
        return self.loss(scored, rollout)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Returns the loss of TRL's training step, and counts as update what was not spent on the rollout."""
        with self.meter.clock("update"):
            return super().training_step(*args, **kwargs)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Returns Trainer's optimizer with the critic in groups of its own, at `critic_learning_rate`."""
        optimizer = super().create_optimizer(model)
        learning_rate = getattr(self.args, "critic_learning_rate", None)  # a subclass's configuration may have none
        if self.has_critic:
            critics.set_learning_rate(optimizer, self.model if model is None else model, learning_rate)
        return optimizer

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Called between the last backward pass and the update."""
        grad_norm = super()._get_grad_norm(model, grad_norm)
        if grad_norm is not None and self.accelerator.scaler is None:  # a scaler skips overflows and lowers its scale
            self._finite.check_gradients(float(grad_norm), self.state.global_step)
        return grad_norm

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Logs, with the time spent since the last log of training."""
        if self.model.training:
            logs |= self.meter.pop_times()
        super().log(logs, *args, **kwargs)

    def evaluation_loop(self, dataloader: Any, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Returns the metrics of the held-out rows as Trainer wants them: `eval_bleu`, `eval_length` and so on."""
        measure = self.held_out_metrics
        if isinstance(measure, dict):
            measure = measure.get(metric_key_prefix.removeprefix("eval_"))
        if measure is None:
            output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
            for name in list(self._metrics["eval"]) if metric_key_prefix.startswith("eval_") else ():  # one of several
                self._metrics["eval"][f"{metric_key_prefix[5:]}_{name}"] = self._metrics["eval"].pop(name)
            return output
        self.model.eval()
        with self.gathered_policy() as policy:
            named = {f"{metric_key_prefix}_{name}": value for name, value in measure(policy).items()}
        return EvalLoopOutput(None, None, named, num_samples=getattr(dataloader.dataset, "num_rows", 0))

    # -- saving ------------------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self._finite.check_weights(self.model, self.accelerator, self.state.global_step)
        save = functools.partial(super()._save_checkpoint, model, trial)
        checkpoint = Path(self._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        self._writer.write(checkpoint, self._save_run_state, save, self.state)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(checkpoint))

    def _get_output_dir(self, trial: Any) -> str:
        return self._writer.redirect(super()._get_output_dir(trial))

    def _save_run_state(self, folder: Path) -> None:
        within_rollout = self._step % (self.args.steps_per_generation * self.num_iterations) != 0
        arguments = checkpointing.plain_arguments(self.args, self.model)
        completions = self._logs if within_rollout and self.log_completions else {}
        state = {**self.run_state_dict(), "arguments": arguments, "completions": completions}
        batches = self._buffered_inputs if within_rollout else None
        checkpointing.save_run_state(folder, state, batches, self.accelerator)
        self.reference.save(folder)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the policy, if its weights are finite."""
        if not _internal_call:  # else it is a part of a checkpoint, and they are
            self._finite.check_weights(self.model, self.accelerator, self.state.global_step)
        save = functools.partial(super().save_model, output_dir, _internal_call)
        self._writer.save_model(output_dir or self.args.output_dir, save)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if not self.has_critic:
            super()._save(output_dir, state_dict)
            return
        critic = critics.critic_weights(self.model.state_dict() if state_dict is None else state_dict)
        super()._save(output_dir, state_dict)  # takes the critic out of a state_dict that it is given
        if self.args.should_save:
            models.save_critic(critic, output_dir or self.args.output_dir)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes `model_card` once there is one, which is then pushed, too; TRL's draft before."""
        if self.model_card is None:
            super().create_model_card(*args, **kwargs)
        elif self.is_world_process_zero():
            (Path(self.args.output_dir) / "README.md").write_text(self.model_card, encoding="utf-8")

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self._writer.is_writing:  # it uploads while training goes on
            super()._push_from_checkpoint(checkpoint_folder)

    # -- resuming ----------------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """
        Returns what `Trainer.train` returns, with `resume_from_checkpoint` as in [`find_checkpoint`].

        Raises:
            ValueError: If there is no such checkpoint, or it is damaged.
            RewardError: If a reward fails; the steps done so far are saved before.
            SaveError: If a checkpoint cannot be written; those before it are complete.
            Terminated: If the run got SIGTERM; it is saved.
        """
        arguments.check_callbacks(self.callback_handler.callbacks, self.has_critic)
        checkpoint = self._writer.find(resume_from_checkpoint, self.args.output_dir)
        if checkpoint is not None:
            self._resumed_state = checkpointing.load_run_state(Path(checkpoint), self.accelerator.process_index)
            checkpointing.compare_arguments(checkpoint, self._resumed_state, self.args, self.model)
        with checkpointing.save_on_sigterm(self.accelerator, self.callback_handler):
            try:
                return super().train(checkpoint, *args, **kwargs)
            except RewardError as error:
                if self.state.global_step == 0:
                    raise
                raise RewardError(f"{error} {self._save_before_exit()}") from error

    def _save_before_exit(self) -> str:
        """Saves the steps that are done when the next one fails; returns where, as a sentence."""
        failed_at = self._step
        self._step -= self._step % self.args.gradient_accumulation_steps
        if self._step < failed_at - self.args.steps_per_generation * self.num_iterations:
            self._buffered_inputs: Any = None  # of a later rollout than the step began in
        checkpoint = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        return self._writer.write_before_exit(checkpoint, lambda: self._save_checkpoint(self.model, trial=None))

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step >= self.state.max_steps:  # resumed at its end: Trainer would train one more step
            self.control.should_training_stop = True
            return
        if self._resumed_state is not None:  # what was not logged yet: Trainer has begun with a loss of zero
            self._tr_loss += self._resumed_state["loss"]
            self._globalstep_last_logged = self._resumed_state["last_logged"]
            if isinstance(self.train_dataset, IterableDataset) and not self.args.ignore_data_skip:
                self._passes, kwargs["steps_trained_in_current_epoch"] = self._resumed_state.get("stream", (0, 0))
            self._resumed_state = None
        kwargs |= {name: kwargs[name] + self._passes for name in ("epoch", "epochs_trained")}
        super()._run_epoch(*args, **kwargs)

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        self._train_sampler = super()._get_train_sampler(dataset)
        return self._train_sampler

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Called whatever the engine, when a run is resumed."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            # TRL's sampler shuffles anew in each epoch, from one seed: it would begin with the first order.
            for _ in range(int(self.state.epoch or 0)):
                next(iter(self._train_sampler or ()), None)
            self._load_run_state(Path(checkpoint))
            self._load_rng_state(checkpoint)  # where the run is at its end, the loop, which does it, is not entered

    def _load_run_state(self, folder: Path) -> None:
        state = self._resumed_state
        if state is not None:
            self.load_run_state_dict(state)
            self._buffered_inputs = checkpointing.load_batches(folder, state, self.args, self.accelerator)
            if self._buffered_inputs is not None:
                checkpointing.restore_completions(self._logs, state["completions"])
        self.reference.load(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._load_critic(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._load_critic(str(self.state.best_model_checkpoint))

    def _load_critic(self, folder: str) -> None:
        # A checkpoint of DeepSpeed or FSDP has the complete module, with the critic: what they have loaded is shards.
        if self.has_critic and not (self.is_deepspeed_enabled or self.is_fsdp_enabled):
            models.load_critic(models.get_critic(self._base_model), folder)

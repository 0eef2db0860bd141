"""The policy-gradient trainer: every override of TRL's and transformers' trainers is in this file."""

import functools
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch import Tensor, nn, optim
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput
from trl import RLOOTrainer

from lmrl import checks, core, critics, frozen, log_file, models, progress_bar, sigterm
from lmrl.checkpoints import checkpoint_folder
from lmrl.display.trainers import trainer_html, trainer_text
from lmrl.distributed import local_rows

from . import arguments, engines, meter, sampling
from .checkpointing import run_state, writer
from .configs import PolicyGradientConfig
from .reference import Reference, Scorer
from .rollout import Credit, Rollout


class PolicyGradientTrainer(RLOOTrainer):
    """
    From prompts to scored completions, from credit to an update: the part that all algorithms share.

    A subclass implements `credit` and `loss`. Numbered comments follow the walk of a batch in docs/architecture.md.

    Args:
        model (`str` or `Path` or [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The policy. Its KL reference is a frozen copy of it as given (with LoRA, the model without the new
            adapter), or the model that `args.reference_model_name_or_path` names.
        reward_funcs (`Callable` or `list[Callable]`):
            Functions of `prompts`, `completions` and the dataset's columns.
        args ([`PolicyGradientConfig`], *optional*):
            Configuration, of the class `config_class`. The trainer works on a copy of it.
        train_dataset ([`~datasets.Dataset`] or list of `dict`):
            Rows with a `"prompt"` and the columns that the rewards read.
        held_out_metrics (`Callable` or `dict[str, Callable]`, *optional*):
            What [`~transformers.Trainer.evaluate`] measures in place of the reward of sampled completions: a function
            that gets the policy and returns metrics by name, the same on every process; for several sets one each.
        eval_dataset, processing_class, callbacks, optimizers, quantization_config, peft_config (*optional*):
            As for [`~trl.RLOOTrainer`]. An optimizer gets the critic's weights too.
    """

    # Of the algorithm: its name, `title` and arXiv `id` of a paper, BibTeX, the fields that describe a run.
    name = "policy-gradient"
    paper: Mapping[str, str] = {}
    citation: str | None = None
    reported_settings: tuple[str, ...] = ("num_iterations", "epsilon", "normalize_advantages")
    config_class: type[PolicyGradientConfig] = PolicyGradientConfig
    model_card: str | None = None  # to save in place of TRL's draft
    __repr__ = trainer_text
    _repr_html_ = trainer_html
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
        **unknown: Any,
    ) -> None:
        others = (processing_class, held_out_metrics, reward_processing_classes, quantization_config, peft_config)
        given = arguments.Given(type(self), unknown, model, reward_funcs, args, train_dataset, eval_dataset, *others)
        super().__init__(*given.for_trl(), None, callbacks, optimizers, None, peft_config)
        given.prepare(self.model, self.args)
        self.beta = self.args.beta
        self.held_out_metrics = held_out_metrics
        # The policy as a plain model: out of its engine, and out of PEFT's wrapper.
        self._base_model: PreTrainedModel = models.base_of(self.accelerator.unwrap_model(self.model))
        self.meter = meter.Meter(self.accelerator, self._metrics, self.model)  # logging over all processes
        self.scorer = Scorer(self.accelerator, self.args)  # passes of a model over completions
        self._decoding = None if self.use_vllm else models.DecodingWeights(self.accelerator.mixed_precision)
        self._finite = checks.FiniteChecks(self.args)
        self._writer = writer.CheckpointWriter(self.args.should_save, self.args.save_total_limit)
        self._resumed_state: dict[str, Any] | None = None
        engines.keep_outputs_in_fp32(self.accelerator)
        with self.gathered_policy() as policy:
            reference = frozen.make_frozen_model(policy, given.frozen_copy, self._tokenizer, self.args)
            models.add_scoring_forward(self._base_model, self.temperature)
            models.check_scoring_forward(self._base_model, self.temperature, self.args.scoring_pass)
            if self.args.startup_checks:
                models.scoring.check_padding(self._base_model)
            critic = self.create_critic(policy)
        self.has_critic = critic is not None
        engines.match_dtype(critic, self._base_model, self.accelerator)
        self.sampled = sampling.SampledLogProbs(self.args, self.scorer, critic)
        used = (self._tokenizer, self._base_model, reference, self.eos_token_ids, self.args)
        self._check_prompts = checks.check_rows(given.sampled_sets(), *used)
        self.reference = Reference(reference, self.args, self.accelerator)  # the KL penalty
        self.ref_model = self.reference.model
        if self.args.sync_ref_model:
            self.add_callback(self.reference.sync_callback(self.model))
        if self.use_vllm:
            engines.send_policy_to_vllm(self.vllm_generation, self.sampled.record)
        arguments.offer_base_model(self.model, self.reward_funcs, self.accelerator)
        arguments.check_training(*optimizers, self.model, self.aux_loss_enabled and self.router_aux_loss_coef)
        self.kl_stop = checks.KLStop(self.args, self.accelerator, self.meter)
        self.add_callback(self.kl_stop)
        self.add_callback(log_file.LogFile(self.meter.newest["train"]))
        progress_bar.show_training_progress(self.callback_handler)

    # -- for subclasses: `credit` and `loss`, which they implement; hooks; what is given to them --------------------

    def credit(self, rollout: Rollout) -> Credit:
        """Returns the credit of a rollout: all completions of this process, in the order of generation."""
        raise NotImplementedError

    def loss(self, scored: models.ScoredCompletions, rollout: Rollout) -> Tensor:
        """
        Returns the scalar loss of a batch, on a scale that does not depend on how a rollout is cut into batches.
        `scored` is the policy's output, with gradient, and `rollout` the batch with its credit: never write to either.
        """
        raise NotImplementedError

    def create_critic(self, policy: PreTrainedModel) -> nn.Module | None:
        """Returns a critic made by [`~lmrl.critics.attach_critic`], trained at `critic_learning_rate`, or None."""
        return None

    def on_first_rewards(self, rewards: Tensor) -> None:
        """Called once with the first rewards of this process, (B,), before any pass over the completions."""

    def extra_rewards(self, inputs: list[dict[str, Any]], prompts: list[Any]) -> dict[str, Tensor]:
        """Returns further tensors with B rows, by name, which become fields or `extra` of the rollout."""
        return {}

    def choose_completions(self, rows: list[dict[str, Any]], prompt_ids: Any, ids: Any, texts: Any) -> Any:
        """Returns ids of prompts, and ids and texts of the completions to train on, given those sampled for `rows`."""
        return prompt_ids, ids, texts

    def run_state_dict(self) -> dict[str, Any]:
        """Returns lmrl's own state in a checkpoint, beside Trainer's, in a form for JSON. A subclass adds its own."""
        return {
            **run_state.progress(self._step, self._tr_loss, self._globalstep_last_logged, self.state, self.args),
            **self.kl_stop.state_dict(),
            "rewards": checks.reward_states(self.reward_funcs),
            "metrics": self.meter.state_dict(),
            **({} if self.args.kl_target is None else {"beta": self.beta}),  # a fixed one may be changed on resuming
        }

    def load_run_state_dict(self, state: dict[str, Any]) -> None:
        """Loads what [`~PolicyGradientTrainer.run_state_dict`] returned."""
        self._step = run_state.resumed_step(state, self.state, self.args)
        checks.load_reward_states(self.reward_funcs, state["rewards"])
        self.meter.load_state_dict(state["metrics"])
        self.kl_stop.load_state_dict(state, self._step)
        if self.args.kl_target is not None:
            self.beta = state.get("beta", self.beta)

    def gathered_policy(self) -> AbstractContextManager[PreTrainedModel]:
        """Returns a context that gives the policy complete, not in shards: all processes enter and leave together."""
        return engines.gathered_policy(self.model_wrapped, self.accelerator, self.args, self._decoding)

    @property
    def serves_one_update(self) -> bool:
        """Whether a rollout is one batch for one update (or evaluated), whose pass gives old log-probabilities."""
        return not self.model.training or (self.num_iterations == 1 and self.args.steps_per_generation == 1)

    @property
    def completions_per_prompt(self) -> int:
        """Number of completions per prompt, side by side once gathered: before, processes may share a prompt."""
        return self.num_generations if self.model.training else self.num_generations_eval

    # -- the walk of a batch -----------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        # 1. and 2. TRL samples and calls the rewards, by way of the next four methods.
        self._rows = inputs
        sampled = super()._generate_and_score_completions(inputs)
        has_ended = core.ended(sampled["completion_ids"], sampled["completion_mask"], self.eos_token_ids)
        rewards = self.total_rewards(self._rewards_per_func, has_ended)
        self.meter.log_rewards(rewards, sampled["completion_mask"].sum(dim=1), has_ended, self.completions_per_prompt)
        if self.args.mask_truncated_completions:
            sampled["completion_mask"] = sampled["completion_mask"] * has_ended.unsqueeze(1)
        lengths = self.accelerator.gather(sampled["completion_mask"].sum(dim=1)).float()
        rollout = Rollout.from_sampled(sampled, rewards, lengths, self._extra_rewards)
        is_first = self.model.training and self._step == 0 and self.state.global_step == 0
        if is_first:
            self.on_first_rewards(rewards)
        with_policy = not self.serves_one_update
        with self.meter.clock("scoring"):
            # 3. and 4. The policy that sampled, and the reference.
            rollout = self.sampled.add_to(rollout, self.model, with_policy)
            rollout = self.scorer.score(rollout, self.model, self.reference, with_policy, self.has_critic)
        if with_policy:  # 5. Credit, unless it waits for the log-probabilities of the training pass.
            rollout = self._with_credit(rollout)
        if is_first and self.args.startup_checks:
            checks.check_first_rollout(rollout, self.model, self.scorer, self.reference, self.eos_token_ids, self.args)
        return rollout.to_dict()

    def _generate(self, prompts: list[Any]) -> Any:
        sampled = self.meter.log_ended(super()._generate(prompts), self.eos_token_ids)
        return self.choose_completions(self._rows, *sampled)

    def _generate_single_turn(self, prompt_ids: list[list[int]], images: Any, *args: Any) -> list[list[int]]:
        self._check_prompts("this rollout", prompt_ids, images=images)
        policy = (self._base_model, self.model_wrapped, self.accelerator, self._decoding, self.args)
        with self.meter.clock("generation"), engines.decoding_policy(*policy, self.sampled.record):
            return super()._generate_single_turn(prompt_ids, images, *args)

    def _get_per_token_logps_and_entropies(
        self, model: Any, ids: Tensor, mask: Any, keep: int, *_: Any, **__: Any
    ) -> Any:
        # TRL scores for its own advantages, which are not used: steps 3 and 4 come when the rewards are known.
        return ids.new_zeros(len(ids), keep).float(), None, None

    def _calculate_rewards(self, inputs: list[dict[str, Any]], prompts: list[Any], *args: Any) -> Tensor:
        with checks.unlearned_on_failure(self.reward_funcs):
            self._rewards_per_func = self.call_rewards(inputs, prompts, *args)
            self._extra_rewards = self.extra_rewards(inputs, prompts)
        return self._rewards_per_func

    def call_rewards(self, *args: Any) -> Tensor:
        """Returns the rewards of all processes' completions by function, (N, F); a failure is raised on each."""
        with self.meter.clock("reward"):
            per_func = super()._calculate_rewards(*args)
        checks.raise_on_all_ranks(self.reward_funcs)
        return per_func

    def total_rewards(self, per_func: Tensor, has_ended: Tensor) -> Tensor:
        """Returns the total rewards of this process's completions, (B,), given all processes' by function, (N, F)."""
        rewards = local_rows(core.weighted_rewards(per_func, self.reward_weights, self.reward_clip_range))
        return rewards - (self.args.missing_eos_penalty or 0.0) * (~has_ended)

    def _with_credit(self, rollout: Rollout) -> Rollout:
        kl = self.meter.log_kl(rollout, self.beta)
        self._finite.check_forward("the KL to the reference", kl, self.state.global_step)
        rollout = rollout.with_credit(self.credit(rollout))
        self.meter.log_advantages(rollout.advantages, rollout.completion_mask, self._logs)
        if self.model.training:
            self.beta = self.reference.next_coefficient(self.beta, kl)
            self.control.should_training_stop |= self.reference.is_too_far(kl, self.state.global_step)
        return self.sampled.weigh(rollout, self.meter)

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        # 6. The loss of a batch.
        rollout = Rollout.from_dict(inputs)
        if self.serves_one_update:
            rollout = rollout.in_order_of_generation()
        scored = self.scorer.forward(model, rollout, self.has_critic)
        if self.serves_one_update:
            # 3. and 5. By the very pass that is trained on.
            rollout = self._with_credit(rollout.with_policy_pass(scored))
        self.kl_stop.watch(scored.log_probs, rollout, self._step)
        entropy = self.meter.log_mean("entropy", scored.entropy, rollout.completion_mask)
        self._finite.check_forward("the entropy", entropy, self.state.global_step)
        return self.loss(scored, rollout)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Returns the loss of TRL's training step; logs its time, without that of a rollout, as the update's."""
        if self._resumed_state is not None:  # a loss not logged before the checkpoint: Trainer began with zero
            self._tr_loss += self._resumed_state["loss"]
            self._globalstep_last_logged = self._resumed_state["last_logged"]
            self._resumed_state = None
        self.model.train()  # an evaluation leaves it otherwise, and what is logged and timed goes by this
        if (left_out := self.kl_stop.skipped(self._step)) is not None:
            self._step += 1
            return left_out
        with self.meter.clock("update"):
            return super().training_step(*args, **kwargs)

    def create_optimizer(self, model: nn.Module | None = None) -> optim.Optimizer:
        """Returns Trainer's optimizer with the critic in groups of its own, at `critic_learning_rate`."""
        optimizer = super().create_optimizer(model)
        learning_rate = getattr(self.args, "critic_learning_rate", None)  # a subclass's configuration may have none
        critics.set_critic_learning_rate(optimizer, self.model if model is None else model, learning_rate)
        return optimizer

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        grad_norm = super()._get_grad_norm(model, grad_norm)  # between the last backward pass and the update
        if grad_norm is not None and self.accelerator.scaler is None:  # a scaler skips overflows and lowers its scale
            self._finite.check_gradients(float(grad_norm), self.state.global_step)
        return grad_norm

    def evaluation_loop(self, dataloader: Any, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Returns the metrics of the held-out rows as Trainer wants them: `eval_bleu`, `eval_length` and so on."""
        data_set, measure = arguments.held_out_set(metric_key_prefix, self.held_out_metrics)
        if measure is None:
            with self.meter.sampled_evaluation(data_set):
                return super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        self.model.eval()
        with self.gathered_policy() as policy:
            named = {f"{metric_key_prefix}_{name}": value for name, value in measure(policy).items()}
        return EvalLoopOutput(None, None, named, num_samples=getattr(dataloader.dataset, "num_rows", 0))

    def _determine_best_metric(self, metrics: dict[str, Any], trial: Any) -> bool:
        # With save_strategy="best" this decides whether to save: what a callback has requested is saved, too.
        return super()._determine_best_metric(self._finite.known(metrics), trial) or self.control.should_save

    # -- saving and resuming -----------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self._finite.check_weights(self.model, self.accelerator, self.state.global_step)
        save = functools.partial(super()._save_checkpoint, model, trial)
        checkpoint = checkpoint_folder(self._get_output_dir(trial), self.state.global_step)
        self._writer.write(checkpoint, self._save_run_state, save, self.state)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(checkpoint))

    def _get_output_dir(self, trial: Any) -> str:
        return self._writer.redirect(super()._get_output_dir(trial))

    def _save_run_state(self, folder: Path) -> None:
        is_used_up = self._step % (self.args.steps_per_generation * self.num_iterations) == 0
        batches = None if is_used_up else self._buffered_inputs
        completions = {} if is_used_up or not self.log_completions else self._logs
        run_state.save_run_state(folder, self.run_state_dict(), batches, completions, self.args, self.model)
        self.reference.save(folder)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the policy, if its weights are finite."""
        if not _internal_call:  # in a checkpoint they are checked already
            self._finite.check_weights(self.model, self.accelerator, self.state.global_step)
        save = functools.partial(super().save_model, output_dir, _internal_call)
        self._writer.save_model(output_dir or self.args.output_dir, save)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        # The critic's weights first: Trainer, when it saves, removes them from a state_dict that it is given.
        critic = critics.critic_weights(self.model.state_dict() if state_dict is None else state_dict)
        super()._save(output_dir, state_dict)
        if self.has_critic and self.args.should_save:
            critics.save_critic(critic, output_dir or self.args.output_dir)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes `model_card`, which is then also what is pushed; as long as it is None, TRL's draft of a card."""
        if self.model_card is None:
            super().create_model_card(*args, **kwargs)
        elif self.is_world_process_zero():
            (Path(self.args.output_dir) / "README.md").write_text(self.model_card, encoding="utf-8")

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self._writer.writing:  # not from where it is written: the upload outlasts that folder
            super()._push_from_checkpoint(checkpoint_folder)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """
        Returns what `Trainer.train` returns. `resume_from_checkpoint` is as in [`find_checkpoint`], or else of `args`.

        Raises:
            RewardError, Terminated: If a reward fails, or the run gets SIGTERM; what was done so far is saved before.
        """
        arguments.check_callbacks(self.callback_handler.callbacks, self.model)
        checkpoint = self._writer.find(resume_from_checkpoint, self.args)
        self._resumed_state = run_state.load_run_state(checkpoint, self.args, self.model)
        with sigterm.save_on_sigterm(self.accelerator, self.callback_handler):
            try:
                return super().train(checkpoint, *args, **kwargs)
            except checks.RewardError as error:
                if self.state.global_step == 0:
                    raise
                raise checks.RewardError(f"{error} {self._save_before_exit()}") from error

    def _save_before_exit(self) -> str:
        """Saves the steps that are done when the next one fails; returns where, as a sentence."""
        failed_at = self._step
        self._step -= self._step % self.args.gradient_accumulation_steps
        if self._step < failed_at - self.args.steps_per_generation * self.num_iterations:
            self._buffered_inputs: Any = None  # they are of a later rollout than that step
        checkpoint = checkpoint_folder(self.args.output_dir, self.state.global_step)
        return self._writer.write_before_exit(checkpoint, lambda: self._save_checkpoint(self.model, trial=None))

    def _init_training_state(self, max_steps: int, steps: int, epochs: int, *args: Any) -> tuple[int, int]:
        place: tuple[int, int] = super()._init_training_state(max_steps, steps, epochs, *args)
        if self.state.global_step >= max_steps:  # resumed at its end: Trainer would train one more step
            return epochs, 0
        return run_state.resumed_place(self._resumed_state, self.train_dataset, self.args, place)

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        self._train_sampler = super()._get_train_sampler(dataset)
        return self._train_sampler

    def _load_optimizer_and_scheduler(self, checkpoint: str) -> None:
        """Loads all of a checkpoint that training needs: Trainer calls it under every engine when a run is resumed."""
        super()._load_optimizer_and_scheduler(checkpoint)
        run_state.pass_epochs(getattr(self, "_train_sampler", None), self.state)
        critics.reload_critic(self._base_model, checkpoint, self.accelerator)
        if self._resumed_state is not None:
            self.load_run_state_dict(self._resumed_state)
            self._buffered_inputs = run_state.load_rollout(checkpoint, self._resumed_state, self._logs, self.args)
        self.reference.load(Path(checkpoint))
        self._load_rng_state(checkpoint)  # the training loop does so, but a run at its end does not enter it

    def _load_best_model(self) -> None:
        super()._load_best_model()
        critics.reload_critic(self._base_model, str(self.state.best_model_checkpoint), self.accelerator)

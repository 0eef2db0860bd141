"""The critic that is fitted in closed form, anew for every rollout, on the rollouts before it."""

import base64

import torch
from accelerate import Accelerator
from safetensors.torch import load, save
from torch import Tensor

from lmrl import core
from lmrl.distributed import local_rows

# Candidates for the shrinkage. The one that has best predicted rollouts, before it was fitted to them, is used.
SHRINKAGES = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0, 30.0, 100.0)
PER_FEATURE = 20.0  # times features per token is the least shrinkage, until one has predicted a rollout
MAX_OF_NUMBERS = 1e-2  # largest shrinkage of numbers known of the text: each is worth more than one of a state's
WORDS_WIDTH = 128  # of the embeddings that are summed where rewards have no progress
VOCABULARY_PART = 8_192  # tokens whose embeddings are projected at once, in float32
FOLDS = 8  # parts of the first rollout's prompts, each valued by a fit to the others


class LeastSquaresCritic:
    """
    Ridge regression of returns on features of states; see [`~lmrl.core.fit_ridge`].

    Earlier rollouts, whose policy was another one, count less and less in its sums. It has no weights that are
    trained, so no engine needs to know of it, and all processes hold the same numbers.

    Args:
        forgetting (`float`):
            Factor in (0, 1] by which the sums of earlier rollouts are multiplied at each new one.
        num_generations (`int`):
            Completions per prompt in training. If above 1, the mean reward of a prompt's others is a feature.
        accelerator (`accelerate.Accelerator`):
            Sums over all processes.
        embeddings (`torch.Tensor` of shape `(V, D)`, *optional*):
            Embeddings of the policy's tokens, copied as they are now. Where no reward has progress, their sum over the
            text so far is a feature: it shows what has been written, and a state mostly what comes next.
    """

    def __init__(
        self, forgetting: float, num_generations: int, accelerator: Accelerator, embeddings: Tensor | None = None
    ) -> None:
        self.forgetting = forgetting
        self._embeddings: Tensor | None = None
        if embeddings is not None:
            parts = embeddings.detach().split(VOCABULARY_PART)
            self._embeddings = torch.cat([core.narrow(part, WORDS_WIDTH) for part in parts])
        self.num_generations = num_generations
        self._accelerator = accelerator
        self._numbers = 0  # how many of the features, the last ones, are not states
        self._moments: Tensor | None = None
        self._errors = torch.zeros(len(SHRINKAGES), dtype=torch.float64)
        self._weights: Tensor | None = None
        self._has_tokens = True  # whether the first rollout has tokens that count: not where no reward applied

    def choose(self, moments: Tensor, tokens: float | None = None) -> int:
        """
        Returns the index in `SHRINKAGES` of the one to use with moments, (F + 2, F + 2). `tokens` is the number of
        tokens in them, if it is known: reading it from the moments waits for a GPU.
        """
        if self._errors.any():
            return int(self._errors.argmin())
        count = float(moments[0, 0]) if tokens is None else tokens
        wanted = PER_FEATURE * (len(moments) - 2) / max(count, 1.0)
        return min(sum(shrinkage < wanted for shrinkage in SHRINKAGES), len(SHRINKAGES) - 1)

    def value_rollout(
        self,
        states: Tensor,
        completion_ids: Tensor,
        progress: Tensor,
        totals: Tensor,
        returns: Tensor,
        mask: Tensor,
        group: int,
    ) -> tuple[Tensor, Tensor]:
        """
        Returns the values of a rollout, (B, T), none of which depends on the rest of its own completion, and its
        features, (B, T, F), for [`~LeastSquaresCritic.update`].

        Args:
            states (`torch.Tensor` of shape `(B, T, D)`), completion_ids (`torch.Tensor` of shape `(B, T)`):
                The policy's states, which are projected if they are wide, and the token ids.
            progress (`torch.Tensor` of shape `(B, T, K)`):
                What rewards know of the text so far: see [`RewardProgress.numbers`].
            totals (`torch.Tensor` of shape `(N,)`):
                Rewards of the completions of all processes; NaN where no reward applied.
            returns (`torch.Tensor` of shape `(B, T)`):
                Returns of the tokens, which are read for the values of the first rollout only.
            group (`int`):
                Completions per prompt.
        """
        numbers = progress
        if self.num_generations > 1:  # an evaluation may have one per prompt
            others = core.leave_one_out(totals, group) if group > 1 else core.batch_mean(totals)
            of_tokens = local_rows(others).nan_to_num(0.0).view(-1, 1, 1).expand(-1, mask.shape[1], 1)
            numbers = torch.cat([progress, of_tokens], dim=-1)
        features = core.join_features(self._with_words(core.narrow(states), completion_ids, progress, mask), numbers)
        known = features.shape[-1] if self._moments is None else len(self._moments) - 2
        if features.shape[-1] != known:
            if not self._sum(mask.sum()):  # no token counts, so rewards gave no numbers
                return torch.zeros_like(returns), features.new_zeros(*mask.shape, known)
            raise ValueError(
                f"`resume_from_checkpoint` must be of a run whose critic had {features.shape[-1]} features, got one "
                f"with {known}. Go on with its rewards, and with `num_generations` 1 if it was 1 there."
            )
        self._numbers = 2 * numbers.shape[-1] + 1
        rows = torch.arange(len(mask), device=mask.device) + len(mask) * self._accelerator.process_index
        return self.values(features, returns, mask, fold=rows // group % FOLDS), features

    def _with_words(self, states: Tensor, completion_ids: Tensor, progress: Tensor, mask: Tensor) -> Tensor:
        """Returns states, beside them the summed embeddings of the text so far if no reward has progress."""
        if self._embeddings is None or progress.shape[-1] > 0:
            return states
        self._embeddings = self._embeddings.to(states.device)
        words = core.sums_so_far(self._embeddings[completion_ids * mask], mask)
        return torch.cat([states, words], dim=-1)

    def values(self, features: Tensor, returns: Tensor, mask: Tensor, fold: Tensor) -> Tensor:
        """
        Returns the values of states, (B, T), none of which depends on the rest of its own completion.

        They come from weights that were fitted to earlier rollouts. In the first rollout, each part of the prompts is
        valued by weights fitted to the other parts.

        Args:
            features (`torch.Tensor` of shape `(B, T, F)`), returns (`torch.Tensor` of shape `(B, T)`):
                Features of the state before each token, and its return, which only a first rollout reads.
            fold (`torch.Tensor` of shape `(B,)`):
                The part of the prompts that a completion is in, from 0 to `FOLDS - 1`.
        """
        if self._weights is not None and self._moments is not None:
            return core.linear_values(features, self._weights[self.choose(self._moments)])
        masks = [mask * (fold == part).unsqueeze(1) for part in range(FOLDS)]
        moments = self._sum(torch.stack([core.regression_moments(features, returns, each) for each in masks]))
        tokens: list[float] = moments[:, 0, 0].tolist()
        self._has_tokens = any(tokens)
        values = torch.zeros_like(returns)
        for part in range(FOLDS):
            others = [other for other in range(FOLDS) if other != part]
            fitted_to = torch.stack([moments[other] for other in others]).sum(dim=0)
            shrinkage = SHRINKAGES[self.choose(fitted_to, sum(tokens[other] for other in others))]
            of_part = core.linear_values(features, self._fit(fitted_to, shrinkage))
            values = torch.where((fold == part).unsqueeze(1), of_part, values)
        return values

    def update(self, features: Tensor, returns: Tensor, mask: Tensor) -> None:
        """Adds a rollout to the sums, and fits the weights for later rollouts. All processes must call it."""
        new = self._sum(core.regression_moments(features, returns, mask))
        if self._moments is None or self._weights is None:
            if not self._has_tokens:
                return
            self._moments = new
        else:
            errors = [core.squared_error(new, weights) for weights in self._weights]
            measured = torch.stack([*errors, new[0, 0]]).cpu()  # in one piece, as it waits for a GPU
            if not measured[-1]:
                return
            self._errors = self.forgetting * self._errors + measured[:-1]
            self._moments = self.forgetting * self._moments + new
        self._weights = torch.stack([self._fit(self._moments, shrinkage) for shrinkage in SHRINKAGES])

    def _fit(self, moments: Tensor, shrinkage: float) -> Tensor:
        """Returns the weights, (F + 1,), of a regression that shrinks numbers known of the text less than states."""
        shrinkages = torch.full_like(moments[0, 1:-1], shrinkage)
        shrinkages[len(shrinkages) - self._numbers :].clamp_(max=MAX_OF_NUMBERS)
        return core.fit_ridge(moments, shrinkages)

    def _sum(self, moments: Tensor) -> Tensor:
        return self._accelerator.reduce(moments, reduction="sum")

    def state_dict(self) -> str | None:
        """Returns all that the next values depend on as text, for JSON; None before the first rollout."""
        if self._moments is None or self._weights is None:
            return None
        tensors = {"moments": self._moments, "errors": self._errors, "weights": self._weights}
        return base64.b64encode(save({name: tensor.cpu() for name, tensor in tensors.items()})).decode()

    def load_state_dict(self, state: str | None) -> None:
        """Loads what [`~LeastSquaresCritic.state_dict`] returned; a `ValueError` if it is of another critic."""
        if not state:
            raise ValueError(
                "`resume_from_checkpoint` must be of a run with a fitted critic, got one without its sums. Use the "
                "`critic` or `baseline` of the run that wrote it."
            )
        tensors = load(base64.b64decode(state))
        self._moments = tensors["moments"].to(self._accelerator.device)
        self._weights = tensors["weights"].to(self._accelerator.device)
        self._errors = tensors["errors"]

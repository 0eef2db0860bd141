"""Collective operations over the processes of a run, which are no-ops on a single process."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from lmrl.utils import replaced

T = TypeVar("T")


def is_distributed() -> bool:
    """Returns whether `torch.distributed` has been initialized."""
    from torch import distributed

    return distributed.is_available() and distributed.is_initialized()


def rank_and_world_size() -> tuple[int, int]:
    """Returns the rank of this process and the number of processes: `(0, 1)` without `torch.distributed`."""
    from torch import distributed

    if is_distributed():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def gather(value: T) -> list[T]:
    """Returns the picklable values of all ranks, in the order of their ranks. Every rank must call it."""
    from torch import distributed

    _, world_size = rank_and_world_size()
    if world_size == 1:
        return [value]
    values: list[T] = [value] * world_size
    distributed.all_gather_object(values, value)
    return values


class FailedElsewhere(RuntimeError):
    """Raised where the value of another rank is missing, because its computation failed there."""

    of_another_process = True


def gather_or_fail(value: T, failed: bool = False) -> list[T]:
    """
    Returns the values of all ranks, in the order of their ranks, unless one of them failed. Every rank must call it.

    Args:
        value (any picklable object):
            Value of this rank.
        failed (`bool`, *optional*, defaults to `False`):
            Whether this rank has no value. It should raise its own error afterwards.

    Raises:
        FailedElsewhere: If another rank failed and this one did not.
    """
    outcomes = gather((failed, value))
    ranks = [rank for rank, (missing, _) in enumerate(outcomes) if missing]
    if ranks and not failed:
        raise FailedElsewhere(f"Rank {ranks[0]} has no value: see its error.")
    return [of_rank for _, of_rank in outcomes]


def on_main(fn: Callable[[], T]) -> T:
    """
    Runs a function on the main rank and returns its result on every rank. Every rank must call it.

    Raises:
        Exception: What `fn` raised on the main rank, on every rank.
    """
    from torch import distributed

    rank, world_size = rank_and_world_size()
    if world_size == 1:
        return fn()
    outcome: list[Any] = [None, None]
    if rank == 0:
        try:
            outcome = [fn(), None]
        except Exception as error:
            outcome = [None, error]
    distributed.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def run_on_all_ranks(fn: Callable[[], T]) -> T:
    """
    Runs a function on every rank and returns the main rank's result; if it fails on one rank, raises on all. The
    function must not wait for another rank.

    Raises:
        ValueError, OSError: On every rank, if `fn` raised one on any: its own if there is one, else that of the
            lowest rank. Any other exception is raised at once, on its rank alone.
    """
    outcome: tuple[T | None, Exception | None]
    try:
        outcome = (fn(), None)
    except (ValueError, OSError) as error:
        outcome = (None, error)
    outcomes = gather(outcome)
    for _, failure in [outcome, *outcomes]:  # the rank's own first, with its traceback
        if failure is not None:
            raise failure
    return cast(T, outcomes[0][0])


def local_rows(gathered: Any) -> Any:
    """Returns the rows of this rank, (B, ...), out of a tensor with those of all, (N, ...), in the order of ranks."""
    rank, world_size = rank_and_world_size()
    return gathered.chunk(world_size)[rank]


def even_rows(chosen: Any) -> list[int]:
    """
    Returns indices of this rank's rows, in order: those chosen by a mask of all ranks' rows, (N,), filled up with
    others to as many as the rank with most has, so that all ranks process equally many rows.
    """
    own = local_rows(chosen).int()
    most = chosen.view(-1, len(own)).sum(dim=1).max()
    return own.argsort(descending=True, stable=True)[:most].sort().values.tolist()


@contextmanager
def unsharded(model: Any, reshard_after_forward: bool) -> Iterator[None]:
    """
    Gathers every weight of a model under `fully_shard` on every rank, with no communication in its forward nor in
    `generate`. A model without shards is left as it is.

    Args:
        model (`torch.nn.Module`):
            Model with a `generate`.
        reshard_after_forward (`bool`):
            Whether a layer's forward ends with shards again, once the context is left.
    """
    from torch.distributed.fsdp import FSDPModule

    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    if not units:
        yield
        return
    units[0]._get_fsdp_state()._lazy_init()  # else the first layer that runs takes itself for the root
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    # Trainer registers `generate` with FSDP as a forward, after which the root would be shards again, and transformers
    # makes the ranks wait for each other at every token if it sees FSDP: so `generate` is replaced.
    try:
        with replaced(model, "generate", functools.partial(type(model).generate, model, synced_gpus=False)):
            yield
    finally:
        for unit in units:
            unit.reshard()
            unit.set_reshard_after_forward(reshard_after_forward, recurse=False)
        # The root stays gathered after its forward: the backward pass, which begins with it, needs it at once.
        units[0].set_reshard_after_forward(False, recurse=False)

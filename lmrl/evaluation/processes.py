"""Work shared among the processes of one run."""

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def rank_and_world() -> tuple[int, int]:
    """Returns which process this is and how many there are: `(0, 1)` where none have joined."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def gather(value: T) -> list[T]:
    """Returns the values of all processes, in the order of their ranks; every process must call it."""
    from torch import distributed

    world = rank_and_world()[1]
    if world == 1:
        return [value]
    values: list[T] = [value] * world
    distributed.all_gather_object(values, value)
    return values


def on_main(compute: Callable[[], T]) -> T:
    """Returns on every process what `compute` gives on the first; an error of it is raised on every process too."""
    from torch import distributed

    rank, world = rank_and_world()
    if world == 1:
        return compute()
    box: list[Any] = [None, None]
    if rank == 0:
        try:
            box = [compute(), None]
        except Exception as error:
            box = [None, error]
    distributed.broadcast_object_list(box)
    if box[1] is not None:
        raise box[1]
    result: T = box[0]
    return result

"""Libraries that are imported when one of their names is first read, and types that are made of them."""

import functools
import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

# They are strings, so a union with another type must be a string as well: `"Dataset | None"`.
Array: TypeAlias = "np.typing.NDArray[np.float64]"
Integers: TypeAlias = "np.typing.NDArray[Any]"
Tensor: TypeAlias = "torch.Tensor"
Dataset: TypeAlias = "datasets.Dataset"
GenerationConfig: TypeAlias = "transformers.GenerationConfig"
PreTrainedModel: TypeAlias = "transformers.PreTrainedModel"
PreTrainedTokenizerBase: TypeAlias = "transformers.PreTrainedTokenizerBase"


class _Library:
    """A module that is imported when one of its names is first read."""

    def __init__(self, name: str) -> None:
        self._name = name

    @functools.cached_property
    def _module(self) -> ModuleType:
        return importlib.import_module(self._name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


if TYPE_CHECKING:
    import datasets as datasets
    import numpy
    import numpy.typing
    import torch as torch
    import transformers as transformers

    np = numpy
else:
    datasets = _Library("datasets")
    np = _Library("numpy")
    torch = _Library("torch")
    transformers = _Library("transformers")

evaluate: Any = _Library("evaluate")
nltk: Any = _Library("nltk")
optuna: Any = _Library("optuna")
peft: Any = _Library("peft")
rapidfuzz: Any = _Library("rapidfuzz")
sacrebleu: Any = _Library("sacrebleu")

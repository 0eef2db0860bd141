"""
A PyTorch without CUDA that has GPUs: tensors of `cuda` are in host memory, and a wrong device raises as on a GPU.

Call [`install`] before anything uses `torch.cuda`. `PRETENDED_GPUS` in the environment is their number, 1 by default.
"""

import contextlib
import fcntl
import hashlib
import os
import runpy
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

TORCH = "2.13.0"  # pretended.cpp and the names replaced below are private to PyTorch: another version may lack them
SOURCE = Path(__file__).with_suffix(".cpp")
CACHE = Path(__file__).parents[2] / ".pytest_cache" / "d" / "pretended_gpu"
COMPILER = os.environ.get("CXX", "c++")
BYTES = 80 * 2**30
OPERATORS = torch.library.Library("aten", "IMPL")  # which are there as long as this object


def reason_missing() -> str:
    """Returns why there can be no pretended GPU here, "" if there can be one."""
    if sys.platform != "linux":
        return f"A pretended GPU needs Linux, got {sys.platform}."
    if not torch.__version__.startswith(TORCH):
        return f"A pretended GPU needs torch {TORCH}, got {torch.__version__}."
    if torch.version.cuda or torch.version.hip:
        return f"A pretended GPU needs a torch without CUDA, got {torch.__version__}."
    if shutil.which(COMPILER) is None:
        return f"A pretended GPU needs a C++ compiler, and there is no `{COMPILER}`."
    return ""


def install() -> None:
    """Gives this process its GPUs; builds them if that was not done before, in 10 to 20 seconds."""
    if reason := reason_missing():
        raise RuntimeError(reason)
    torch.ops.load_library(build())
    torch.ops.pretended.install()
    _replace_devices()
    _replace_storages()
    _replace_nccl()
    _add_operators()


def build() -> Path:
    """Returns the library, which is compiled once for each source, PyTorch and machine."""
    command = [COMPILER, "-std=c++20", "-O1", "-w", "-fPIC", "-shared", str(SOURCE)]
    installed = Path(torch.__file__).parent
    command += [f"-I{installed / 'include'}", f"-L{installed / 'lib'}", "-ltorch_cpu", "-lc10"]
    key = hashlib.sha256(SOURCE.read_bytes() + " ".join([*command, torch.__version__, os.uname().machine]).encode())
    library = CACHE / f"{key.hexdigest()[:16]}.so"
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one of several processes builds
        if not library.is_file():
            begun = library.with_suffix(".begun")
            subprocess.run([*command, "-o", str(begun)], check=True)
            begun.rename(library)
    return library


def returns(value: Any) -> Callable[..., Any]:
    """Returns a function of any arguments that returns the value."""
    return lambda *args, **kwargs: value


def another(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that does the same: torch.compile has one rule for each, and finds it by the identity."""
    return lambda *args, **kwargs: function(*args, **kwargs)


nothing = returns(None)


class Event:
    """All work is done as soon as it is given."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def record(self, stream: Any = None) -> "Event":
        return self

    wait = synchronize = nothing
    query = returns(True)
    elapsed_time = returns(0.0)


class Stream:
    """The only one, in which all runs in order."""

    cuda_stream = priority = stream_id = device_index = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.device = torch.device("cuda", torch.ops.pretended.current_device())

    def __enter__(self) -> "Stream":
        return self

    def record_event(self, event: Any = None) -> Any:
        return event or Event()

    __exit__ = synchronize = wait_stream = wait_event = nothing
    query = returns(True)
    is_capturing = returns(False)


def _set_device(device: Any) -> None:
    torch.ops.pretended.set_device(device if isinstance(device, int) else torch.device(device).index or 0)


def _exchange_device(index: int) -> int:
    before = torch.ops.pretended.current_device()
    torch.ops.pretended.set_device(index)
    return before


def _replace_devices() -> None:
    """What `torch.cuda` has from the driver."""
    devices = torch.ops.pretended
    properties = types.SimpleNamespace(
        name="Pretended GPU", major=9, minor=0, total_memory=BYTES, multi_processor_count=132, gcnArchName="", uuid="0"
    )
    count = devices.device_count()
    stream = Stream()
    everywhere = {
        "_initialized": True,
        "_lazy_init": nothing,
        "_lazy_call": lambda function, **_: function(),
        "_is_compiled": returns(True),
        "is_available": returns(True),
        "is_initialized": returns(True),
        "is_bf16_supported": returns(True),
        "is_current_stream_capturing": returns(False),
        "device_count": returns(count),
        "default_generators": tuple(devices.default_generator(index) for index in range(count)),
        "current_device": devices.current_device,
        "set_device": _set_device,
        "_exchange_device": _exchange_device,
        "_maybe_exchange_device": another(_exchange_device),
        "get_device_properties": returns(properties),
        "get_device_name": returns(properties.name),
        "get_device_capability": returns((properties.major, properties.minor)),
        "current_stream": returns(stream),
        "default_stream": returns(stream),
        "stream": returns(contextlib.nullcontext()),
        "Stream": Stream,
        "Event": Event,
        "synchronize": nothing,
        "empty_cache": nothing,
        "ipc_collect": nothing,
        "reset_peak_memory_stats": nothing,
        "memory_stats": returns({}),
        "mem_get_info": returns((BYTES, BYTES)),
        **dict.fromkeys(
            ["memory_allocated", "memory_reserved", "max_memory_allocated", "max_memory_reserved"], returns(0)
        ),
    }
    for module in (torch.cuda, torch.cuda.memory, torch.cuda.random):
        for name, value in everywhere.items():
            if module is torch.cuda or hasattr(module, name):
                setattr(module, name, value)
    for name, value in {
        "getDeviceCount": returns(count),
        "getDevice": devices.current_device,
        "setDevice": _set_device,
        "exchangeDevice": _exchange_device,
        "maybeExchangeDevice": _exchange_device,
        "isCurrentStreamCapturing": returns(False),
        "isInBadFork": returns(False),
        "getCurrentRawStream": returns(0),
        "init": nothing,
        "synchronize": nothing,
        "emptyCache": nothing,
    }.items():
        setattr(torch._C, f"_cuda_{name}", another(value))
    torch.accelerator.current_stream = returns(stream)
    torch.Tensor.record_stream = nothing
    torch.cuda.nvtx._nvtx = types.SimpleNamespace(rangePushA=nothing, rangePop=nothing, markA=nothing)


def _replace_storages() -> None:
    """Methods that know no storage but those of the devices that PyTorch was built for."""
    clone = torch.UntypedStorage.clone
    resize = torch.UntypedStorage.resize_

    def view(storage: torch.UntypedStorage) -> torch.Tensor:
        return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)

    def copy(storage: torch.UntypedStorage, device: torch.device) -> torch.UntypedStorage:
        return view(storage).to(device, copy=True).untyped_storage()

    def to(storage: torch.UntypedStorage, device: torch.device, non_blocking: bool = False) -> torch.UntypedStorage:
        return storage if storage.device == device else copy(storage, device)

    def clone_on_device(storage: torch.UntypedStorage) -> torch.UntypedStorage:
        return copy(storage, storage.device) if storage.device.type == "cuda" else clone(storage)

    def resize_on_device(storage: torch.UntypedStorage, size: int) -> torch.UntypedStorage:
        if storage.device.type != "cuda":
            return resize(storage, size)
        torch.ops.pretended.resize_storage(view(storage), size)
        return storage

    torch.storage._to = torch._utils._to = to
    torch.UntypedStorage.clone = clone_on_device
    torch.UntypedStorage.resize_ = resize_on_device


def _add_operators() -> None:
    """What CUDA alone has: a product of matrices in 16 bits, added up in 32, which TRL uses for supervised losses."""

    def addmm(
        total: torch.Tensor, left: torch.Tensor, right: torch.Tensor, dtype: torch.dtype, *, out: torch.Tensor
    ) -> torch.Tensor:
        return out.copy_(torch.addmm(total, left.to(dtype), right.to(dtype)))

    OPERATORS.impl("addmm.dtype_out", addmm, "CPU")


def _replace_nccl() -> None:
    """A backend that refuses a tensor of the CPU, as NCCL does, and communicates by gloo."""
    from gpu.nccl import ProcessGroupNCCL
    from torch.distributed import distributed_c10d

    distributed_c10d.ProcessGroupNCCL = ProcessGroupNCCL
    distributed_c10d._NCCL_AVAILABLE = True
    distributed_c10d.default_pg_nccl_timeout = distributed_c10d.default_pg_timeout
    torch.distributed.is_nccl_available = distributed_c10d.is_nccl_available = returns(True)
    torch.cuda.nccl.version = returns((2, 27, 0))


if __name__ == "__main__":
    install()
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")

"""Time and peak memory of a call, for both processes; imports nothing of the library."""

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

DTYPES = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_TF32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def set_precision(name: str) -> torch.dtype:
    """Set whether this process uses TF32, and return the dtype of the weights.

    "tf32" allows it; the others leave torch's own setting, which the official code has: exact
    matrix products, TF32 in convolutions. Ours sets its own for every call, exact but for "tf32".
    """
    matmul, convolutions = (True, True) if name == "tf32" else _TF32
    torch.backends.cuda.matmul.allow_tf32 = matmul
    torch.backends.cudnn.allow_tf32 = convolutions
    return DTYPES[name]


def synchronize(device: str) -> None:
    """Wait for a CUDA device."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def measured(call: Callable[[], object], device: str, memory: bool = False) -> dict[str, float]:
    """Run once: `seconds`, on a CPU also the CPU time of all threads (`cpu_s`), and `peak_mib`.

    The peak is that of the process on a CPU, of torch's tensors on CUDA.
    """
    cuda = torch.device(device).type == "cuda"
    if memory:
        torch.cuda.reset_peak_memory_stats() if cuda else _forget_peak()
    synchronize(device)
    start, computed = time.perf_counter(), time.process_time()
    call()
    synchronize(device)
    taken = {"seconds": time.perf_counter() - start}
    if not cuda:
        taken["cpu_s"] = time.process_time() - computed
    if memory:
        peak = torch.cuda.max_memory_allocated() if cuda else _peak_of_process()
        if peak is not None:
            taken["peak_mib"] = peak / 2**20
    return taken


def repeated(
    call: Callable[[], object], device: str, seconds: float, inner: int = 1
) -> list[float]:
    """Seconds of at least three runs after a warm-up, and of as many as fit into `seconds`.

    inner: calls per run, the time of which is divided by it: of short kernels, launches then
    overlap with work as in a network.
    """
    call()
    taken: list[float] = []
    while len(taken) < 3 or inner * sum(taken) < seconds:
        synchronize(device)
        start = time.perf_counter()
        for _ in range(inner):
            call()
        synchronize(device)
        taken.append((time.perf_counter() - start) / inner)
    return taken


def duration(record: dict[str, Any]) -> str:
    """Format the median in seconds or milliseconds, or the reason why there is none."""
    if "median" not in record:
        return record.get("missing", "-")
    seconds = record["median"]
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _forget_peak() -> None:
    """Reset the high-water mark of resident memory (Linux only)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak_of_process() -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)


def machine(device: str) -> dict[str, object]:
    """Describe what the figures were measured on."""
    cuda = torch.device(device).type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else processor(),
        "kind": torch.device(device).type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load": [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "started": time.strftime("%Y-%m-%d %H:%M"),
    }


def processor() -> str:
    """The CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())

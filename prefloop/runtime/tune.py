"""Fit the process to its machine: memory allocator, number of threads, library of matrix products. Changes speed, never results beyond float noise."""

import ctypes
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from prefloop.runtime import products
from prefloop.runtime.heap import keeps_freed_memory

# mallopt(3), <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

_THRESHOLDS = (2**30, 32 * 2**20)
"""Blocks below this come from the heap and stay in the process when freed. glibc before 2.35 refuses more than 32 MiB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """What `tune` chose, and why."""

    threads: int
    """Of PyTorch in this process."""
    cores: float
    """Physical cores this process may use, by affinity and by the container's quota."""
    threads_from: str
    """What decided the number of threads."""
    allocator: str
    """What was set in the C library's allocator."""
    products: str
    """What multiplies large matrices."""

    def __str__(self) -> str:
        return f"{self.threads} threads ({self.threads_from}; {self.cores:g} cores available); allocator: {self.allocator}; matrix products: {self.products}"


def tune(on: bool = True) -> Tuning:
    """Set up allocator, threads and matrix products, unless that is off (`run.tune`). Call once, before the first large tensor.

    The number of threads is that of physical cores, shared among the processes torchrun starts on this machine: a second thread on
    a core shares its arithmetic units and slows matrix products. OMP_NUM_THREADS wins where it is set (torchrun sets it to 1 if you do not).
    Under OMP_PROC_BIND the number is OpenMP's too: loading it has bound this thread to one core, which is then all that affinity shows.
    """
    cores = available_cores()
    if not on:
        products.leave()
        return Tuning(
            threads=torch.get_num_threads(),
            cores=cores,
            threads_from="run.tune is off",
            allocator="as it was",
            products="as they were",
        )
    chosen = _chosen_by_openmp()
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if chosen:
        origin = chosen
    else:
        torch.set_num_threads(max(1, int(cores / processes)))
        origin = "physical cores" if processes == 1 else f"physical cores shared by {processes} processes"
    allocator = _keep_freed_memory()
    return Tuning(
        threads=torch.get_num_threads(),
        cores=cores,
        threads_from=origin,
        allocator=allocator,
        products=str(products.choose()),
    )


def _chosen_by_openmp() -> str:
    """The variable that has already decided the number of threads, as `NAME=value`; empty if none has."""
    for name, off in (("OMP_NUM_THREADS", ""), ("OMP_PROC_BIND", "false")):
        value = os.environ.get(name, "")
        if value.lower() not in ("", off):
            return f"{name}={value}"
    return ""


def available_cores(root: Path = Path("/sys")) -> float:
    """Physical cores this process may use: distinct cores in its affinity, at most the control group's quota.

    Args:
        root: Where the kernel describes the machine.
    """
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return min(float(physical_cores(cpus, root)), cpu_quota(root))


def physical_cores(cpus: Iterable[int], root: Path = Path("/sys")) -> int:
    """How many different cores the logical processors `cpus` are on; each counts as one where the kernel does not say."""
    siblings = set()
    for cpu in cpus:
        path = root / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        siblings.add(path.read_text().strip() if path.is_file() else str(cpu))
    return len(siblings)


def cpu_quota(root: Path = Path("/sys")) -> float:
    """Processors' worth of time the control group grants; infinity without a limit."""
    v2 = root / "fs/cgroup/cpu.max"
    if v2.is_file():
        quota, period = v2.read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    v1 = root / "fs/cgroup/cpu"
    if (v1 / "cpu.cfs_quota_us").is_file():
        quota, period = (int((v1 / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return math.inf if quota < 0 else quota / period
    return math.inf


def _keep_freed_memory() -> str:
    """Let freed blocks stay in the heap.

    By default glibc gives every large tensor fresh pages and returns them when it is freed, so the kernel zeroes the same memory
    again and again, page fault by page fault. `Heap` gives back what piles up.
    """
    if not keeps_freed_memory():
        return "as it was (not glibc)"
    mallopt = ctypes.CDLL(None).mallopt
    for threshold in _THRESHOLDS:
        if mallopt(_M_MMAP_THRESHOLD, threshold):
            mallopt(_M_TRIM_THRESHOLD, -1)
            return f"freed blocks up to {threshold // 2**20} MiB are kept"
    return "as it was (mallopt refused)"


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage: its figure starts from that of the process this one was started by.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024

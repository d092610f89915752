"""One schedule in a process of its own, so that its memory is its own; it waits while others are timed."""

import os
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from schedules import CYCLE, Settings, Step, schedule
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


@dataclass(frozen=True)
class First:
    """What the first cycles tell.

    Attributes:
        losses: the terms of the first one's steps.
        peak: memory in bytes.
        flops: of one cycle.
        stepped: bytes that one cycle's fused Adam steps read and write.
    """

    losses: list[dict[str, float]]
    peak: int
    flops: int
    stepped: int


@dataclass(frozen=True)
class Machine:
    """What it can do at best, in a second: FLOPs, and bytes read or written."""

    flops: float
    traffic: float


class Worker:
    """A schedule's process."""

    def __init__(self, name: str, settings: Settings) -> None:
        context = get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=serve, args=(name, settings, other), daemon=True)
        self._process.start()
        other.close()

    def receive(self) -> First:
        return self._pipe.recv()

    def time(self) -> float:
        """Seconds of one cycle."""
        self._pipe.send("cycle")
        return self._pipe.recv()


def serve(name: str, settings: Settings, pipe: Connection) -> None:
    prepare(settings)
    step = schedule(name, settings)
    before = memory()
    losses = [step(number) for number in range(CYCLE)]
    step(CYCLE)  # the generator's second: only now are Adam's averages there
    peak = memory() - before
    with Work() as done:
        cycle(step, 2)
    pipe.send(First(losses, peak, done.flops, done.stepped))
    with suppress(EOFError):  # the measuring process is done
        for number in count(3):
            pipe.recv()
            pipe.send(seconds(partial(cycle, step, number), settings))


class Work(TorchDispatchMode):
    """Adds up the FLOPs that torch's counter says of each operation, and the bytes that Adam cannot do without.

    Its own `FlopCounterMode` also follows modules, and cannot where gradients are taken inside of a forward pass.
    """

    flops, stepped = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **kwargs, out_val=out)
        if func is torch.ops.aten._fused_adam_.default:
            weights, _, _, second_moments, *_ = args
            self.stepped += sum(2 * p.nbytes for p in (*weights, *second_moments)) + sum(p.nbytes for p in weights)
        return out


def cycle(step: Step, number: int) -> None:
    for i in range(CYCLE):
        step(number * CYCLE + i)


def prepare(settings: Settings) -> None:
    if settings.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the public code takes a GPU where it sees one
    torch.set_num_threads(settings.threads)


def memory() -> int:
    """The most that was in use so far, in bytes: of the GPU, or else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> None:
    """From now on `memory` says the most that was in use since; without a GPU, on Linux only."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif (marks := Path("/proc/self/clear_refs")).exists():
        marks.write_text("5")


def seconds(act: Callable[[], object], settings: Settings) -> float:
    clock = time.process_time if settings.processor_time else time.perf_counter
    synchronise()
    start = clock()
    act()
    synchronise()
    return clock() - start


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine(settings: Settings) -> Machine:
    """By a large convolution or product of matrices, whichever is faster, and by adding to a large tensor."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (settings,))


def measure(settings: Settings) -> Machine:
    prepare(settings)
    precision = torch.bfloat16 if settings.precision.startswith("bf16") else torch.float32

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, device=settings.device, dtype=precision)

    image = random(16, 256, 32, 32).contiguous(memory_format=torch.channels_last)
    kernel = random(256, 256, 3, 3).contiguous(memory_format=torch.channels_last)
    a, b = random(2048, 2048), random(2048, 2048)
    large, other = torch.zeros(2, 1 << 26, device=settings.device)  # 256 MB each, beyond any cache

    def typical(act: Callable[[], object]) -> float:
        act()  # the first time takes longer
        return median(seconds(act, settings) for _ in range(5))

    convolution = 2 * 9 * 256 * image.numel() / typical(lambda: F.conv2d(image, kernel, padding=1))
    product = 2 * 2048**3 / typical(lambda: a @ b)
    return Machine(max(convolution, product), 3 * large.nbytes / typical(lambda: large.add_(other)))

"""Measures a training step of CycleGAN counterfactuals: both generators, then the discriminators.

The same published networks (compat=anindya), weights and images, in one run, round by round in turns:

    published               the step of CFE's code restated: every translation made by itself, and the fakes again for
                            the discriminators; their four errors are computed and one is learnt from
    published, memory kept  the same with our one line that lets freed memory serve the next tensor (on a CPU)
    cfxai, published        compat=anindya as tools/train.py trains it: the same terms, each translation made once
    cfxai                   the same networks under our default terms, which train both discriminators
    public code             with --peer: a checkout of anindyamitra2002/Counterfactual-Image-Generation-using-CycleGAN

Each has its own process; peak memory is what training adds to what its process held before. FLOPs are those of
convolutions and products of matrices, of a step, for each of its images.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import public_cyclegan
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from schedules import KEPT, OURS, PEER, PUBLISHED, Settings
from torch import Tensor
from worker import Work, memory, prepare, seconds

from cfxai.config.build import Parts
from cfxai.config.catalogue import CONF
from cfxai.config.compose import compose
from cfxai.loop import train_step
from cfxai.methods.cyclegan import CycleGAN
from cfxai.nn.heap import keep_freed_memory
from cfxai.nn.memory_format import convolve_fast

SAME = "cfxai, published"
LOSS = {
    PUBLISHED: [],
    KEPT: [],
    SAME: [],
    PEER: [],
    OURS: ["loss.towards=cross_entropy", "loss.targets=one_hot", "loss.discriminator_loss=both"],
}
BATCHES = 4
LAYOUT = "{:24} {:>7} {:>9} {:>20} {:>10} {:>8}"
Step = Callable[[int], dict[str, float]]
"""The number of a step -> its loss terms."""


@dataclass(frozen=True)
class First:
    """What the first steps tell: their first terms, the memory in bytes that training adds, and the FLOPs of a step."""

    terms: dict[str, float]
    peak: int
    flops: int


class Measured:
    """What this process measures."""

    step: Step
    settings: Settings


def main() -> None:
    settings, rounds = arguments()
    print(
        f"{settings.device}, {settings.threads} threads, {settings.precision} (published: 32-true); images "
        f"{settings.size}x{settings.size}, {settings.batch} of each class a step, width {settings.width}",
        flush=True,
    )
    context = get_context("spawn")
    left_out = {KEPT: settings.device != "cpu", PEER: settings.peer is None}
    processes = {name: context.Pool(1) for name in LOSS if not left_out.get(name)}
    first = {name: process.apply(first_steps, (name, settings)) for name, process in processes.items()}
    times: dict[str, list[float]] = {name: [] for name in processes}
    for number in range(rounds):
        for name, process in processes.items():
            times[name].append(process.apply(timed, (number,)))
    reference = PEER if PEER in times else PUBLISHED
    print(LAYOUT.format("step", "s", "images/s", "speed (range)", "GFLOP/img", "peak GB"))
    for name, found in first.items():
        ratios = sorted(theirs / own for theirs, own in zip(times[reference], times[name], strict=True))
        print(
            LAYOUT.format(
                name,
                f"{median(times[name]):.2f}",
                f"{2 * settings.batch / median(times[name]):.1f}",
                f"{median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})",
                f"{found.flops / 2 / settings.batch / 1e9:.2f}",
                f"{found.peak / 1e9:.2f}",
            )
        )
    for name in (PUBLISHED, PEER):
        if name in first:
            apart = max(abs(first[SAME].terms[term] - value) / abs(value) for term, value in first[name].terms.items())
            print(f"the generators' losses of {name} and {SAME}: within {apart:.1e} in the first step")


def arguments() -> tuple[Settings, int]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="side of the images, 32 or more; 512 as published")
    parser.add_argument("--batch", type=int, default=4, help="images of each class a step; 4 as published")
    parser.add_argument("--width", type=int, default=32, help="of the generators; 32 as published")
    parser.add_argument("--rounds", type=int, default=3, help="timed steps of each")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="on a CPU")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--precision", default="32-true", help="of ours, as trainer.precision")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="instead of that which passes: for a CPU that others use too, with --threads 1",
    )
    parser.add_argument("--peer", type=Path, help="a checkout of the public code")
    given = parser.parse_args()
    if given.peer and not (given.peer / "src/models.py").is_file():
        parser.error(f"--peer: {given.peer} has no src/models.py.")
    device = given.device if given.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    peer = given.peer and given.peer.resolve()
    settings = Settings(
        given.size, given.batch, given.width, device, given.precision, given.threads, given.processor_time, peer
    )
    return settings, given.rounds


def begin(name: str, settings: Settings) -> None:
    """Prepares a process for its schedule."""
    prepare(settings)
    torch.manual_seed(0)
    width = round(settings.width)
    networks = [f"generator.width={width}", f"discriminator.width={2 * width}"]
    choices = ["compat=anindya", *networks, *LOSS[name]]
    method = Parts(compose(CONF / "cyclegan_pneumonia.yaml", choices))["method"]
    precision = "32-true" if name not in (SAME, OURS) else settings.precision
    fabric = Fabric(accelerator=settings.device, devices=1, precision=precision)  # type: ignore[arg-type]
    fabric.to_device(method.modules)
    fabric.to_device(method.classifier)
    shape = (2 * settings.batch, 1, settings.size, settings.size)
    images = [fabric.to_device(torch.rand(shape) * 2 - 1) for _ in range(BATCHES)]
    Measured.settings = settings
    if name in (SAME, OURS):
        Measured.step = ours(method, images, fabric)
    elif name == PEER:
        assert settings.peer is not None
        Measured.step = public_cyclegan.step(settings.peer, method, images, width)
    else:
        if name == KEPT:
            keep_freed_memory()
        Measured.step = published(method, images)


def ours(method: CycleGAN, images: list[Tensor], fabric: Fabric) -> Step:
    """As `cfxai.training` and `cfxai.loop` drive it; the first half of each batch is normal."""
    keep_freed_memory()
    convolve_fast(method.modules)
    convolve_fast(method.classifier)
    optimizers = {name: fabric.setup_optimizers(optimizer) for name, optimizer in method.optimizers.items()}
    label = fabric.to_device(torch.arange(len(images[0])) * 2 // len(images[0]))

    def step(number: int) -> dict[str, float]:
        return train_step(method, optimizers, fabric, {"image": images[number % BATCHES], "label": label}, number, 0)

    return step


def published(method: CycleGAN, images: list[Tensor]) -> Step:
    """The order of events and the terms of the published code."""
    (to_normal, to_abnormal), (d_normal, d_abnormal) = (
        list(pair.children()) for pair in (method.generator, method.discriminator)
    )
    generates, discriminates = method.optimizers["generator"], method.optimizers["discriminator"]

    def real(verdict: Tensor) -> Tensor:
        return F.mse_loss(verdict, torch.ones_like(verdict))

    def fake(verdict: Tensor) -> Tensor:
        return F.mse_loss(verdict, torch.zeros_like(verdict))

    def called(image: Tensor, wanted: float) -> Tensor:
        p = method.classifier(image).softmax(1)
        return F.mse_loss(p, torch.full_like(p, wanted))

    def step(number: int) -> dict[str, float]:
        normal, abnormal = images[number % BATCHES].chunk(2)
        method.discriminator.requires_grad_(False)
        made_normal, made_abnormal = to_normal(abnormal), to_abnormal(normal)
        terms = {
            "adv": real(d_normal(made_normal)) + real(d_abnormal(made_abnormal)),
            "counterfactual": called(made_normal, 1.0) + called(made_abnormal, 0.0),
            "cycle": 10 * (F.l1_loss(to_normal(made_abnormal), normal) + F.l1_loss(to_abnormal(made_normal), abnormal)),
            "identity": F.l1_loss(to_normal(normal), normal) + F.l1_loss(to_abnormal(abnormal), abnormal),
        }
        generates.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        generates.step()
        method.discriminator.requires_grad_(True)
        method.generator.requires_grad_(False)
        made_normal, made_abnormal = to_normal(abnormal), to_abnormal(normal)
        errors = [real(d_normal(normal)), fake(d_normal(made_normal)), real(d_abnormal(abnormal))]
        error = fake(d_abnormal(made_abnormal))
        torch.stack([*errors, error]).sum().item()  # is logged
        discriminates.zero_grad()
        error.backward()
        discriminates.step()
        method.generator.requires_grad_(True)
        return {name: value.item() for name, value in terms.items()}

    return step


def first_steps(name: str, settings: Settings) -> First:
    """Those of this process, which it keeps for `timed`; in the second, Adam has its averages."""
    begin(name, settings)
    before = memory()
    terms = Measured.step(0)
    Measured.step(1)
    peak = memory() - before
    with Work() as done:
        Measured.step(2)
    return First(terms, peak, done.flops)


def timed(number: int) -> float:
    """Seconds of one step."""
    return seconds(partial(Measured.step, number), Measured.settings)


if __name__ == "__main__":
    main()

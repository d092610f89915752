"""Measures the diffusion autoencoder: a training step at the published size, and k edits of one image.

`--step`: the same networks (compat=dae2024), weights, images, times and noise, in one run, round by round in turns:

    published                the published step restated with plain layers (benchmarks/published_dae.py)
    published, memory kept   the same, but the C library keeps freed memory, as our training has it (CPU only)
    cfxai                    compat=dae2024 as tools/train.py trains it
    cfxai, mixed precision   the same with trainer.precision as in --precision, unless that is 32-true
    public code              with --peer: a checkout of matanat/dae_counterfactual itself

On a CPU the published steps compute in float32, on a GPU in float16, as they were trained.
Each has its own process; peak memory is what training adds to what its process held before. The floor is the time of
our FLOPs at the rate of a large convolution or matrix product, whichever is faster, on this machine, plus that of
stepping and averaging the weights at its memory's rate.

`--edits`: an image is inverted once, then rendered again and k times under other codes; with the published sampling
(250 steps to the noise, 100 to each image) and with ours (conf/method/diffusion_autoencoder.yaml, by default and with
more steps; guidance evaluates the network twice a step), on one small network that is trained first.

Without either option, both parts.
"""

import argparse
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import dae_edits
import torch
from dae_step import CHANNELS, FULL, MIXED, First, first_steps, timed
from schedules import KEPT, OURS, PEER, PUBLISHED, Settings
from worker import Machine, machine

STEP = "{:24} {:>8} {:>9} {:>20} {:>10} {:>9} {:>8}"
EDIT = "{:30} {:>9} {:>7} {:>8} {:>5} {:>12} {:>12} {:>9} {:>8} {:>12}"


def main() -> None:
    settings, given = arguments()
    print(f"{settings.device}, {settings.threads} threads", flush=True)
    if given.step or not given.edits:
        compare_steps(settings, given.rounds)
    if given.edits or not given.step:
        compare_edits(settings, given.training, given.steps)


def arguments() -> tuple[Settings, argparse.Namespace]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", action="store_true", help="only the training step")
    parser.add_argument("--edits", action="store_true", help="only the edits")
    parser.add_argument("--size", type=int, default=64, help="side of the images; 64 as published")
    parser.add_argument("--batch", type=int, default=8, help="images a step; 32 a GPU as published")
    parser.add_argument("--width", type=float, default=0.5, help="of the networks, 0.5 or whole; 1 as published")
    parser.add_argument("--rounds", type=int, default=3, help="timed steps of each")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="on a CPU")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--precision", default="bf16-mixed", help="of the row with mixed precision, or 32-true")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="instead of that which passes: for a CPU that others use too, with --threads 1",
    )
    parser.add_argument("--peer", type=Path, help="a checkout of the public code")
    parser.add_argument("--training", type=int, default=400, help="steps of the network that edits")
    parser.add_argument("--steps", type=int, nargs="*", default=[24], help="of our sampling, besides the default")
    given = parser.parse_args()
    if given.size % 16:
        parser.error("--size: must be divisible by 16.")
    if given.width <= 0 or given.width * CHANNELS % 32:
        parser.error("--width: must be a multiple of 0.5, so that there are 32 channels in each group.")
    if given.peer and not (given.peer / "templates.py").is_file():
        parser.error(f"--peer: {given.peer} has no templates.py.")
    device = given.device if given.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    peer = given.peer and given.peer.resolve()
    settings = Settings(
        given.size, given.batch, given.width, device, given.precision, given.threads, given.processor_time, peer
    )
    return settings, given


def compare_steps(settings: Settings, rounds: int) -> None:
    mixes = settings.precision != FULL
    names = [PUBLISHED, *[KEPT] * (settings.device == "cpu"), OURS, *[MIXED] * mixes, *[PEER] * bool(settings.peer)]
    full = machine(replace(settings, precision=FULL))
    best = dict.fromkeys(names, full) | ({MIXED: machine(settings)} if mixes else {})
    context = get_context("spawn")
    processes = {name: context.Pool(1) for name in names}
    first = {name: process.apply(first_steps, (name, settings)) for name, process in processes.items()}
    print(
        f"training step: {first[OURS].weights:,} weights, {settings.batch} images {settings.size}x{settings.size}; "
        f"{full.flops / 1e9:.0f} GFLOP/s, {full.traffic / 1e9:.0f} GB/s",
        flush=True,
    )
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name, process in processes.items():
            times[name].append(process.apply(timed, (number,)))
    print_steps(first, times, best, settings.batch)


def print_steps(first: dict[str, First], times: dict[str, list[float]], best: dict[str, Machine], batch: int) -> None:
    floors = {
        name: first[OURS].flops / rates.flops + first[OURS].stepped / rates.traffic for name, rates in best.items()
    }
    print(STEP.format("step", "s", "images/s", "speed (range)", "GFLOP/img", "of floor", "peak GB"))
    for name, found in first.items():
        taken = median(times[name])
        ratios = sorted(reference / own for reference, own in zip(times[PUBLISHED], times[name], strict=True))
        print(
            STEP.format(
                name,
                f"{taken:.2f}",
                f"{batch / taken:.2f}",
                f"{median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})",
                f"{found.flops / batch / 1e9:.1f}",
                f"{floors[name] / taken:.0%}",
                f"{found.peak / 1e9:.2f}",
            )
        )
    print("floor: " + "; ".join(f"{name}: {floors[name]:.2f} s" for name in (OURS, MIXED) if name in floors))
    for name, found in first.items():
        if name != OURS:
            apart = [abs(a - b) / b for a, b in zip(first[OURS].losses, found.losses, strict=True)]
            print(f"losses of {name} and cfxai: within {apart[0]:.1e} in the first step, {max(apart):.1e} in three")


def compare_edits(settings: Settings, training: int, steps: list[int]) -> None:
    print(f"edits: a small network after {training} steps of training; error: of its reconstructions", flush=True)
    columns = "sampling", "guidance", "error", "peak MB", "k", "evaluations", "times fewer"
    print(EDIT.format(*columns, "s", "edits/s", "times faster"))
    reference: dae_edits.Way | None = None
    for way in dae_edits.measured(settings, training, steps):
        reference = reference or way
        for i, number in enumerate(dae_edits.EDITS):
            of_all = way.name, f"{way.guidance:g}", f"{way.error:.2%}", f"{way.peak / 1e6:.0f}"
            fewer = reference.evaluations[i] / way.evaluations[i]
            faster = reference.seconds[i] / way.seconds[i]
            per_second = f"{number / way.seconds[i]:.1f}"
            cells = f"{way.evaluations[i]}", f"{fewer:.1f}", f"{way.seconds[i]:.2f}", per_second, f"{faster:.1f}"
            print(EDIT.format(*(of_all if i == 0 else [""] * 4), number, *cells), flush=True)


if __name__ == "__main__":
    main()

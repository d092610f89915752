"""Measures a training cycle of the published COIN: one step of generator and discriminator, four of the latter alone.

The same networks, weights and images, in one run, round by round in turns:

    published                the published step, plain layers one after another (benchmarks/published_step.py)
    published, memory kept   the same, but the C library keeps freed memory, as our training has it (CPU only)
    cfxai                    compat=coin2024 as tools/train.py trains it
    public code              with --peer: a checkout of Dmytro-Shvetsov/counterfactual-search itself

Each has its own process; peak memory is what training adds to what its process held before. The floor is the time of
our FLOPs at the rate of a large convolution or matrix product, whichever is faster, on this machine, plus that of
stepping the weights at its memory's rate: Adam reads weight, gradient and second moment, and writes the first and the
last. The two add up, since no weight is stepped before the last gradient is known to be finite.
"""

import argparse
from pathlib import Path
from statistics import median

import torch
from schedules import CYCLE, KEPT, OURS, PEER, PUBLISHED, Settings
from worker import First, Machine, Worker, machine

LAYOUT = "{:24} {:>9} {:>9} {:>20} {:>10} {:>9} {:>9}"


def main() -> None:
    settings, rounds = arguments()
    names = [PUBLISHED, *([KEPT] if settings.device == "cpu" else []), OURS, *([PEER] if settings.peer else [])]
    best = machine(settings)
    print(
        f"{settings.device}, {settings.threads} threads, {settings.precision}: {best.flops / 1e9:.0f} GFLOP/s, "
        f"{best.traffic / 1e9:.0f} GB/s; images {settings.size}x{settings.size}, batches of {settings.batch}, "
        f"width {settings.width:g}",
        flush=True,
    )
    workers, first = {}, {}
    for name in names:
        workers[name] = Worker(name, settings)
        first[name] = workers[name].receive()
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            times[name].append(workers[name].time())
    print_table(names, first, times, best, settings.batch)
    for name in names:
        if name != OURS:
            print(agreement(name, first))


def arguments() -> tuple[Settings, int]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="side of the images, divisible by 32; 256 in the paper")
    parser.add_argument("--batch", type=int, default=8, help="images a step; 16 in the paper")
    parser.add_argument("--width", type=float, default=1.0, help="of the networks; 1 is the paper's")
    parser.add_argument("--rounds", type=int, default=3, help="timed cycles of each schedule")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="on a CPU")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one")
    parser.add_argument(
        "--precision", default="32-true", help="of ours, as trainer.precision; the published has 32-true"
    )
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="instead of that which passes: for a CPU that others use too, with --threads 1",
    )
    parser.add_argument("--peer", type=Path, help="a checkout of the public code")
    given = parser.parse_args()
    if given.size % 32:
        parser.error("--size: must be divisible by 32.")
    if given.peer and not (given.peer / "src/models/cgan").is_dir():
        parser.error(f"--peer: {given.peer} has no src/models/cgan.")
    device = given.device if given.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    peer = given.peer and given.peer.resolve()
    return (
        Settings(
            given.size, given.batch, given.width, device, given.precision, given.threads, given.processor_time, peer
        ),
        given.rounds,
    )


def print_table(
    names: list[str], first: dict[str, First], times: dict[str, list[float]], best: Machine, batch: int
) -> None:
    images, computing, stepping = CYCLE * batch, first[OURS].flops / best.flops, first[OURS].stepped / best.traffic
    floor = computing + stepping
    print(LAYOUT.format("schedule", "s/cycle", "images/s", "speed (range)", "GFLOP/img", "of floor", "peak GB"))
    for name in names:
        seconds = median(times[name])
        ratios = sorted(reference / own for reference, own in zip(times[PUBLISHED], times[name], strict=True))
        print(
            LAYOUT.format(
                name,
                f"{seconds:.2f}",
                f"{images / seconds:.2f}",
                f"{median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})",
                f"{first[name].flops / images / 1e9:.1f}",
                f"{floor / seconds:.0%}",
                f"{first[name].peak / 1e9:.2f}",
            )
        )
    print(
        f"floor: FLOPs {first[OURS].flops / 1e9:.0f} G a cycle, {computing:.2f} s; weights "
        f"{first[OURS].stepped / 1e9:.1f} GB, {stepping:.2f} s; in all {images / floor:.2f} images/s"
    )


def agreement(name: str, first: dict[str, First]) -> str:
    """How far the losses of the first step, and of the first cycle, are from ours."""
    apart = []
    for ours, theirs in zip(first[OURS].losses, first[name].losses, strict=True):
        assert ours.keys() == theirs.keys(), (ours, theirs)
        apart.append(max(abs(ours[term] - theirs[term]) / max(abs(theirs[term]), 1e-3) for term in ours))
    return f"losses of {name} and cfxai: within {apart[0]:.1e} in the first step, {max(apart):.1e} in the first cycle"


if __name__ == "__main__":
    main()

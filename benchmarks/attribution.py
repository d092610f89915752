"""Measures saliency maps of one network against the same maps by captum, pytorch-grad-cam and the methods' own code.

Each row: processor seconds of the whole process, on a GPU seconds until it has finished, median over rounds that take
turns; how many times as fast ours is; how much the two maps agree (Pearson's correlation, for pruned Score-CAM
Spearman's; median over images), and, with another --precision, ours and ours in float32; and the floor, the forward
passes that the map needs times the time of one, as a share of our time.

    Grad-CAM            8 images; peers: pytorch-grad-cam (which clips before it enlarges, hence differs) and captum
    Score-CAM           1 image, all channels; peer: pytorch-grad-cam
    Score-CAM, pruned   4 images, an eighth of the channels, of a resnet18 trained for it here; peer: ours with all
    RISE masks          peer: one resized grid at a time, as published
    RISE                1 image; peer: the published loop, given our masks
    Occlusion           1 image, 32 px windows every 16; peer: captum, as many windows a pass as ours

The network is timm's resnet18 with one channel, untrained but for its batch norms: the time does not depend on it.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from statistics import median
from typing import TypeVar

import numpy as np
import timm
import torch
from attribution_rows import Map, comparisons
from torch import Tensor, nn

from cfxai.nn.fold import fast_inference

LAYOUT = "{:20} {:18} {:>9} {:>9} {:>8} {:>10} {:>11} {:>7} {:>9}"
Result = TypeVar("Result")
PRECISIONS = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224, help="side of the images")
    parser.add_argument("--masks", type=int, default=500, help="of RISE")
    parser.add_argument("--rounds", type=int, default=3, help="timed maps of each kind")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--precision", choices=PRECISIONS, default="32", help="bits of ours; the peers keep 32")
    parser.add_argument("--batch", type=int, help="images in a pass, ours and captum's; 16 on a CPU, 256 on a GPU")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    parser.add_argument("--quick", action="store_true", help="96 px, 64 masks, one round: under a minute")
    given = parser.parse_args()
    size, masks, rounds = (96, 64, 1) if given.quick else (given.size, given.masks, given.rounds)
    device = given.device if given.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    stopwatch = Stopwatch(device)
    precise = partial(torch.autocast, device, PRECISIONS[given.precision], given.precision != "32")
    batch = given.batch or (16 if device == "cpu" else 256)
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    images = torch.rand(8, 1, size, size) * 2 - 1
    network = timm.create_model("resnet18", in_chans=1, num_classes=2)
    with torch.no_grad():
        network.train()(images)
    network, images = network.eval().to(device), images.to(device)
    with precise():
        forward = time_of_a_pass(stopwatch, network, images, batch)
    print(
        f"{size} x {size} pixels, {device}, {given.threads} threads, {given.precision} bits; "
        f"a pass of one image takes {forward * 1e3:.3g} ms at best, {batch} at a time"
    )
    print(LAYOUT.format("map", "peer", "peer, s", "ours, s", "speed", "agreement", "as float32", "passes", "of floor"))
    for row in comparisons(network, images, masks, batch):
        if given.only not in row.name:
            continue
        in_float32 = None if given.precision == "32" else row.ours()
        times: dict[Map, list[float]] = {row.ours: [], row.peer: []}
        maps: dict[Map, np.ndarray] = {}
        for _ in range(rounds):
            for act in times:
                with precise() if act is row.ours else nullcontext():
                    seconds, maps[act] = stopwatch.time(act)
                times[act].append(seconds)
        ours, peer = median(times[row.ours]), median(times[row.peer])
        print(
            LAYOUT.format(
                row.name,
                row.peer_name,
                f"{peer:.3g}",
                f"{ours:.3g}",
                f"{peer / ours:.2f}",
                row.agreement(maps[row.ours], maps[row.peer]),
                "–" if in_float32 is None else row.agreement(maps[row.ours], in_float32),
                row.passes or "–",
                f"{row.passes * forward / ours:.0%}" if row.passes else "–",
            ),
            flush=True,
        )


class Stopwatch:
    """Times what runs on a device: processor seconds, or on a GPU seconds until it is done."""

    def __init__(self, device: str) -> None:
        self.on_gpu = device != "cpu"
        self.seconds = time.perf_counter if self.on_gpu else time.process_time

    def time(self, act: Callable[[], Result]) -> tuple[float, Result]:
        """How long it takes, on a GPU the second time: the first chooses kernels."""
        if self.on_gpu:
            act()
            torch.cuda.synchronize()
        start = self.seconds()
        result = act()
        if self.on_gpu:
            torch.cuda.synchronize()
        return self.seconds() - start, result


def time_of_a_pass(stopwatch: Stopwatch, network: nn.Module, images: Tensor, batch: int) -> float:
    """Seconds of one image in a batch, by the fastest form that we have of the network."""
    many = images.repeat(-(-batch // len(images)), 1, 1, 1)[:batch]
    with fast_inference(network, images, passes=1000) as fast:
        fast(many)
        return min(stopwatch.time(lambda: fast(many))[0] for _ in range(3)) / batch


if __name__ == "__main__":
    main()

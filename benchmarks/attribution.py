"""Measures saliency maps of one network against the same maps by captum, pytorch-grad-cam and the methods' own code.

Each row: processor seconds of the whole process, median over rounds that take turns; how many times as fast ours is;
how much the two maps agree (Pearson's correlation, for pruned Score-CAM Spearman's; median over images); and the floor,
the forward passes that the map needs times the time of one, as a share of our time.

    Grad-CAM            8 images; peers: pytorch-grad-cam (which clips before it enlarges, hence differs) and captum
    Score-CAM           1 image, all channels; peer: pytorch-grad-cam
    Score-CAM, pruned   4 images, an eighth of the channels, of a resnet18 trained for it here; peer: ours with all
    RISE masks          peer: one resized grid at a time, as published
    RISE                1 image; peer: the published loop, given our masks
    Occlusion           1 image, 32 px windows every 16; peer: captum, 16 windows a pass

The network is timm's resnet18 with one channel, untrained but for its batch norms: the time does not depend on it.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
import timm
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from captum.attr import Occlusion as CaptumOcclusion
from pytorch_grad_cam import GradCAM as PeerGradCAM
from pytorch_grad_cam import ScoreCAM as PeerScoreCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from scipy.stats import pearsonr, spearmanr
from skimage.transform import resize
from torch import Tensor, nn

from cfxai.attribution.cam import GradCAM
from cfxai.attribution.occlusion import Occlusion
from cfxai.attribution.rise import RISE
from cfxai.attribution.score_cam import ScoreCAM
from cfxai.nn.fold import fast_inference

LAYOUT = "{:20} {:18} {:>9} {:>9} {:>8} {:>10} {:>7} {:>9}"
Map = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Comparison:
    """One row: two ways to a map, and the forward passes of one image that ours needs (None: not what takes time)."""

    name: str
    peer_name: str
    ours: Map
    peer: Map
    passes: int | None
    correlation: Callable | None = pearsonr

    def agreement(self, maps: dict[Map, np.ndarray]) -> str:
        """The median over images."""
        if self.correlation is None:
            return "–"
        pairs = zip(maps[self.ours], maps[self.peer], strict=True)
        return f"{median(float(self.correlation(a.ravel(), b.ravel())[0]) for a, b in pairs):.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224, help="side of the images")
    parser.add_argument("--masks", type=int, default=500, help="of RISE")
    parser.add_argument("--rounds", type=int, default=3, help="timed maps of each kind")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    parser.add_argument("--quick", action="store_true", help="96 px, 64 masks, one round: under a minute")
    given = parser.parse_args()
    size, masks, rounds = (96, 64, 1) if given.quick else (given.size, given.masks, given.rounds)
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    images = torch.rand(8, 1, size, size) * 2 - 1
    network = timm.create_model("resnet18", in_chans=1, num_classes=2)
    with torch.no_grad():
        network.train()(images)
    network.eval()
    forward = time_of_a_pass(network, images)
    print(f"{size} x {size} pixels, {given.threads} threads; a pass of one image takes {forward * 1e3:.1f} ms at best")
    print(LAYOUT.format("map", "peer", "peer, s", "ours, s", "speed", "agreement", "passes", "of floor"))
    for row in comparisons(network, images, masks):
        if given.only not in row.name:
            continue
        times: dict[Map, list[float]] = {row.ours: [], row.peer: []}
        maps: dict[Map, np.ndarray] = {}
        for _ in range(rounds):
            for act in times:
                start = time.process_time()
                maps[act] = act()
                times[act].append(time.process_time() - start)
        ours, peer = median(times[row.ours]), median(times[row.peer])
        print(
            LAYOUT.format(
                row.name,
                row.peer_name,
                f"{peer:.3f}",
                f"{ours:.3f}",
                f"{peer / ours:.2f}",
                row.agreement(maps),
                row.passes or "–",
                f"{row.passes * forward / ours:.0%}" if row.passes else "–",
            ),
            flush=True,
        )


def comparisons(network: nn.Module, images: Tensor, masks: int) -> list[Comparison]:
    layer, size = network.layer4, images.shape[2:]
    labels, first, label = torch.ones(len(images), dtype=torch.long), images[:1], torch.tensor([1])
    target = [ClassifierOutputTarget(1)]

    def scaled(saliency: Tensor) -> np.ndarray:
        """Positive part in [0, 1], as pytorch-grad-cam returns it."""
        positive = saliency.relu()
        return (positive / positive.flatten(1).amax(1).clamp_min(1e-12)[:, None, None]).numpy()

    def peer_grad_cam() -> np.ndarray:
        with PeerGradCAM(model=network, target_layers=[layer]) as peer:
            return peer(input_tensor=images, targets=target * len(images))

    def captum_grad_cam() -> np.ndarray:
        maps = LayerGradCam(network, layer).attribute(images, target=labels).detach()
        return F.interpolate(maps, size=size, mode="bilinear")[:, 0].numpy()

    def peer_score_cam() -> np.ndarray:
        with PeerScoreCAM(model=network, target_layers=[layer]) as peer:
            return peer(input_tensor=first, targets=target)

    def captum_occlusion() -> np.ndarray:
        with torch.no_grad():
            windows = {"sliding_window_shapes": (1, 32, 32), "strides": (1, 16, 16), "baselines": -1.0}
            return (
                CaptumOcclusion(network).attribute(first, target=1, perturbations_per_eval=16, **windows)[:, 0].numpy()
            )

    blobs, pruned, bright = trained()
    bright_label = torch.ones(len(bright), dtype=torch.long)
    grad_cam, rise = GradCAM(network), RISE(network, masks=masks, baseline=0.0, batch_size=16)
    score_cam, few, all_channels = (
        ScoreCAM(network, baseline=0.0, batch_size=16),
        ScoreCAM(blobs, layer="layer3", channels=pruned, batch_size=16),
        ScoreCAM(blobs, layer="layer3", batch_size=16),
    )
    occlusion = Occlusion(network, window=32, stride=16, batch_size=16)
    windows = (1 + -(-(size[0] - 32) // 16)) ** 2
    return [
        Comparison("Grad-CAM", "grad-cam", lambda: scaled(grad_cam.attribute(images, labels)), peer_grad_cam, 8),
        Comparison("Grad-CAM", "captum", lambda: grad_cam.attribute(images, labels).numpy(), captum_grad_cam, 8),
        Comparison(
            "Score-CAM",
            "grad-cam",
            lambda: scaled(score_cam.attribute(first, label)),
            peer_score_cam,
            513,
        ),
        Comparison(
            "Score-CAM, pruned",
            "ours, all channels",
            lambda: few.attribute(bright, bright_label).numpy(),
            lambda: all_channels.attribute(bright, bright_label).numpy(),
            None,
            spearmanr,
        ),
        Comparison(
            "RISE masks",
            "resized one by one",
            lambda: list(rise.occlusions(size))[-1].numpy(),
            lambda: published_masks(masks, size[0]),
            None,
            None,
        ),
        Comparison(
            "RISE",
            "published loop",
            lambda: rise.attribute(first, label).numpy(),
            lambda: published_rise(network, first, torch.cat(list(rise.occlusions(size)))),
            masks,
        ),
        Comparison(
            "Occlusion",
            "captum",
            lambda: occlusion.attribute(first, label).numpy(),
            captum_occlusion,
            windows + 1,
        ),
    ]


def time_of_a_pass(network: nn.Module, images: Tensor) -> float:
    """Seconds of one image in a batch of 16, by the fastest form that we have of the network."""
    batch = torch.cat([images, images])
    with fast_inference(network, images, passes=1000) as fast:
        fast(batch)
        times = []
        for _ in range(3):
            start = time.process_time()
            fast(batch)
            times.append((time.process_time() - start) / len(batch))
    return min(times)


def published_masks(count: int, size: int, cells: int = 8, keep: float = 0.5) -> np.ndarray:
    """RISE's masks [n size size], resized one at a time."""
    random = np.random.default_rng(0)
    cell = int(np.ceil(size / cells))
    masks = np.empty((count, size, size), np.float32)
    for i in range(count):
        grid = (random.random((cells, cells)) < keep).astype(np.float32)
        x, y = random.integers(0, cell, 2)
        large = resize(grid, ((cells + 1) * cell,) * 2, order=1, mode="reflect", anti_aliasing=False)
        masks[i] = large[x : x + size, y : y + size]
    return masks


@torch.no_grad()
def published_rise(network: nn.Module, image: Tensor, masks: Tensor) -> np.ndarray:
    """All masked images in memory, 100 a pass, hidden pixels 0; but divided by the coverage that the masks have."""
    stack = masks[:, None] * image
    chances = torch.cat([network(batch).softmax(1) for batch in stack.split(100)])[:, 1]
    return (torch.tensordot(chances, masks, 1) / masks.sum(0))[None].numpy()


def trained() -> tuple[nn.Module, int, Tensor]:
    """A ResNet-18 that knows bright spots, an eighth of its third stage's channels, and four such images."""
    torch.manual_seed(0)
    network = timm.create_model("resnet18", in_chans=1, num_classes=2)
    optimizer = torch.optim.Adam(network.parameters(), 5e-4)
    for _ in range(100):
        images, labels = spots(32)
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    images, labels = spots(64)
    with torch.no_grad():
        found = network(images).argmax(1)
    print(f"trained on spots: {float((found == labels).float().mean()):.2f} of new images called rightly")
    return network, 32, images[(labels == 1) & (found == 1)][:4]


def spots(count: int, size: int = 64) -> tuple[Tensor, Tensor]:
    """Images [n 1 size size] of coarse noise, and whether there is a bright spot, [n]."""
    noise = F.interpolate(torch.randn(count, 1, size // 8, size // 8), size=size, mode="bilinear") / 5
    labels, centre = torch.randint(2, (count,)), torch.randint(size // 6, size - size // 6, (count, 2))
    rows, columns = (torch.arange(size) - centre[:, axis, None] for axis in (0, 1))
    distance = rows[:, :, None] ** 2 + columns[:, None, :] ** 2
    spot = (labels[:, None, None] * (-distance / (size / 2)).exp())[:, None]
    return (noise - 0.4 + spot).clamp(-1, 1), labels


if __name__ == "__main__":
    main()

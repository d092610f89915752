"""The rows of attribution.py: our maps and their peers'."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from captum.attr import Occlusion as CaptumOcclusion
from pytorch_grad_cam import GradCAM as PeerGradCAM
from pytorch_grad_cam import ScoreCAM as PeerScoreCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from scipy.stats import pearsonr, spearmanr
from skimage.transform import resize
from spots import trained
from torch import Tensor, nn

from cfxai.attribution.cam import GradCAM
from cfxai.attribution.occlusion import Occlusion
from cfxai.attribution.rise import RISE
from cfxai.attribution.score_cam import ScoreCAM

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

    def agreement(self, maps: np.ndarray, others: np.ndarray) -> str:
        """The median over images."""
        if self.correlation is None:
            return "–"
        pairs = zip(maps, others, strict=True)
        return f"{median(float(self.correlation(a.ravel(), b.ravel())[0]) for a, b in pairs):.4f}"


def comparisons(network: nn.Module, images: Tensor, masks: int, batch: int) -> list[Comparison]:
    """Ours and captum's take `batch` changed images in a pass, pytorch-grad-cam and the published code their own."""
    layer, size, device = network.layer4, images.shape[2:], images.device
    labels, first = torch.ones(len(images), dtype=torch.long, device=device), images[:1]
    label = labels[:1]
    target = [ClassifierOutputTarget(1)]

    def scaled(saliency: Tensor) -> np.ndarray:
        """Positive part in [0, 1], as pytorch-grad-cam returns it."""
        positive = saliency.relu()
        return array(positive / positive.flatten(1).amax(1).clamp_min(1e-12)[:, None, None])

    def peer_grad_cam() -> np.ndarray:
        with PeerGradCAM(model=network, target_layers=[layer]) as peer:
            return peer(input_tensor=images, targets=target * len(images))

    def captum_grad_cam() -> np.ndarray:
        maps = LayerGradCam(network, layer).attribute(images, target=labels).detach()
        return array(F.interpolate(maps, size=size, mode="bilinear")[:, 0])

    def peer_score_cam() -> np.ndarray:
        with PeerScoreCAM(model=network, target_layers=[layer]) as peer:
            return peer(input_tensor=first, targets=target)

    def captum_occlusion() -> np.ndarray:
        with torch.no_grad():
            windows = {"sliding_window_shapes": (1, 32, 32), "strides": (1, 16, 16), "baselines": -1.0}
            found = CaptumOcclusion(network).attribute(first, target=1, perturbations_per_eval=batch, **windows)
            return array(found[:, 0])

    blobs, pruned, bright = trained()
    blobs, bright = blobs.to(device), bright.to(device)
    bright_label = torch.ones(len(bright), dtype=torch.long, device=device)
    grad_cam, rise = GradCAM(network), RISE(network, masks=masks, baseline=0.0, batch_size=batch)
    score_cam, few, all_channels = (
        ScoreCAM(network, baseline=0.0, batch_size=batch),
        ScoreCAM(blobs, layer="layer3", channels=pruned, batch_size=batch),
        ScoreCAM(blobs, layer="layer3", batch_size=batch),
    )
    occlusion = Occlusion(network, window=32, stride=16, batch_size=batch)
    windows = (1 + -(-(size[0] - 32) // 16)) ** 2
    return [
        Comparison("Grad-CAM", "grad-cam", lambda: scaled(grad_cam.attribute(images, labels)), peer_grad_cam, 8),
        Comparison("Grad-CAM", "captum", lambda: array(grad_cam.attribute(images, labels)), captum_grad_cam, 8),
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
            lambda: array(few.attribute(bright, bright_label)),
            lambda: array(all_channels.attribute(bright, bright_label)),
            None,
            spearmanr,
        ),
        Comparison(
            "RISE masks",
            "resized one by one",
            lambda: array(list(rise.occlusions(size, device))[-1]),
            lambda: published_masks(masks, size[0]),
            None,
            None,
        ),
        Comparison(
            "RISE",
            "published loop",
            lambda: array(rise.attribute(first, label)),
            lambda: published_rise(network, first, torch.cat(list(rise.occlusions(size, device)))),
            masks,
        ),
        Comparison(
            "Occlusion",
            "captum",
            lambda: array(occlusion.attribute(first, label)),
            captum_occlusion,
            windows + 1,
        ),
    ]


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
    return array((torch.tensordot(chances, masks, 1) / masks.sum(0))[None])


def array(maps: Tensor) -> np.ndarray:
    return maps.float().cpu().numpy()

"""Tries every attributor on every backbone and writes the table of docs/attribution.md.

A cell is ok if the map of the predicted class is finite, not constant, the same for an image alone and in a batch, and
passed the method's own gate; otherwise it says why the method refuses. Networks have random weights and calibrated
batch norm: what is tested is whether a method's arithmetic holds on the architecture. Anything else ends the script.
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from monai.networks.nets import resnet18 as monai_resnet18
from omegaconf import OmegaConf
from torch import Tensor, nn

from cfxai.config.build import Parts
from cfxai.config.catalogue import CONF, options
from cfxai.errors import UnsuitableError
from cfxai.nn.classifiers import ImageClassifier, compact

PAGE = Path(__file__).resolve().parents[1] / "docs/attribution.md"
BEGIN, END = "<!-- table: python benchmarks/attribution_support.py -->\n", "<!-- end of table -->"


def timm_model(name: str, **settings: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=2, in_chans=1, **settings)


def densenet() -> nn.Module:
    network = torchvision.models.densenet121(num_classes=2)
    network.features.conv0 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    return network


def volumes() -> nn.Module:
    return monai_resnet18(spatial_dims=3, n_input_channels=1, num_classes=2)


BACKBONES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "compact (ours)": (compact, (64, 64)),
    "timm resnet18": (timm_model("resnet18"), (64, 64)),
    "torchvision densenet121": (densenet, (64, 64)),
    "timm efficientnet_b0": (timm_model("efficientnet_b0"), (64, 64)),
    "timm convnext_tiny": (timm_model("convnext_tiny"), (64, 64)),
    "timm vit_tiny": (timm_model("vit_tiny_patch16_224"), (224, 224)),
    "timm swin_tiny": (timm_model("swin_tiny_patch4_window7_224"), (224, 224)),
    "MONAI resnet18, 3-D": (volumes, (32, 32, 32)),
}
FEWER = {
    "rise": {"masks": 40},
    **{name: {"samples": 3} for name in ("smooth_grad", "square_grad", "var_grad")},
    "expected_gradients": {"samples": 8},
    "integrated_gradients": {"steps": 16},
    "score_cam": {"channels": 16},
    "occlusion": {"window": 16, "stride": 16},
    **{name: {"samples": 40} for name in ("kernel_shap", "lime")},
    "region_shapley": {"permutations": 4},
}
"""Settings that change how exact a map is, not whether it is right."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(options("attribution")), help="default: all")
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), choices=list(BACKBONES), help="default: all")
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.name} instead of the terminal")
    given = parser.parse_args()
    columns = {}
    for backbone in given.backbones:
        classifier, image = network(*BACKBONES[backbone])
        columns[backbone] = {}
        for method in given.methods:
            columns[backbone][method] = cell(method, classifier, image)
            print(f"{backbone:24} {method:24} {columns[backbone][method]}", flush=True)
    text = table(columns, given.methods)
    if not given.write:
        print(text)
        return
    page = PAGE.read_text()
    start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    PAGE.write_text(page[:start] + "\n" + text + "\n" + page[end:])


def network(make: Callable[[], nn.Module], size: tuple[int, ...]) -> tuple[nn.Module, Tensor]:
    """A classifier with batch-norm statistics of its inputs, and two images."""
    torch.manual_seed(0)
    made = make()
    classifier = made if isinstance(made, ImageClassifier) else ImageClassifier(made)
    image = (torch.randn(2, 1, *size) / 2).clamp(-1, 1)
    with torch.no_grad():
        for _ in range(3):
            classifier.train()((torch.randn(4, 1, *size) / 2).clamp(-1, 1))
    return classifier.eval(), image


def cell(method: str, classifier: nn.Module, image: Tensor) -> str:
    node = OmegaConf.load(CONF / "attribution" / f"{method}.yaml")
    known = {key: value for key, value in FEWER.get(method, {}).items() if key in node}
    attributor = Parts({}, classifier=classifier).fresh(
        OmegaConf.to_container(OmegaConf.merge(node, known)), f"attribution.{method}"
    )
    with torch.no_grad():
        target = classifier(image).argmax(1)
    try:
        together = attributor.attribute(image, target)
        alone = attributor.attribute(image[1:], target[1:])
    except UnsuitableError as refusal:
        return str(refusal)
    if not together.isfinite().all():
        raise SystemExit(f"{method}: the map is not finite")
    if (together.flatten(1).amax(1) == together.flatten(1).amin(1)).any():
        raise SystemExit(f"{method}: the map is constant")
    apart = float((together[1] - alone[0]).abs().max() / together[1].abs().max())
    if apart > 1e-2:
        raise SystemExit(f"{method}: alone and in a batch differ by {apart:.1g}")
    return "ok"


def table(columns: dict[str, dict[str, str]], methods: list[str]) -> str:
    """Markdown: ok, or the number of a reason below it."""
    reasons: dict[str, int] = {}
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for method in methods:
        cells = []
        for found in columns.values():
            text = re.sub(r"-?\d+(\.\d+)?(e[+-]?\d+)?(?= (started|arrived|of|and))", "…", found[method])
            cells.append("ok" if text == "ok" else f"refused ({reasons.setdefault(text, len(reasons) + 1)})")
        lines.append(f"| `{method}` | " + " | ".join(cells) + " |")
    notes = [f"{number}. {text}" for text, number in reasons.items()]
    return "\n".join([*lines, "", *notes, ""])


if __name__ == "__main__":
    main()

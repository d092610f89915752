"""A COIN so small that a step takes milliseconds, and batches for it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from cfxai import loop
from cfxai.methods.coin import Coin
from cfxai.methods.coin_loss import CoinLoss
from cfxai.nn.classifiers import compact
from cfxai.nn.discriminators import PatchDiscriminator
from cfxai.nn.generators import ResidualUNet
from cfxai.run.directory import Run


def fabric(precision: Any = "32-true") -> Fabric:
    return Fabric(accelerator="cpu", devices=1, precision=precision)


def toy_coin(*, loss: Mapping[str, Any] | None = None, **settings: Any) -> Coin:
    """The same one each time; its classifier calls about half of `toy_batch` abnormal."""
    torch.manual_seed(0)
    classifier = compact(widths=(4, 8))
    with torch.no_grad():
        logits = classifier.eval()(toy_batch(0, 32)["image"])
        classifier.network.get_parameter("head.bias")[1] -= (logits[:, 1] - logits[:, 0]).median()
    networks = {"generator": ResidualUNet(widths=(4, 8)), "discriminator": PatchDiscriminator(widths=(4, 8))}
    return Coin(
        classifier,
        loss=CoinLoss(**(loss or {})),
        **(networks | {"steps": 12, "learning_rate": 1e-2, "generator_every": 2, "average": 0.9} | settings),
    )


def toy_batch(step: int, size: int = 8) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(step)
    image = torch.rand(size, 1, 16, 16, generator=generator) * 2 - 1
    return {"image": image, "label": torch.arange(size) % 2, "id": [str(i) for i in range(size)]}


def weights(method: Coin) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in method.modules.state_dict().items()}


def fit(method: Any, directory: Path, *, batches: Any = toy_batch, run: Run | None = None, **settings: Any) -> None:
    """`loop.fit` with small settings."""
    loop.fit(
        method,
        batches,
        run or Run(directory),
        fabric(),
        **({"steps": 12, "seed": 0, "validate": score_by_weights(method), "validate_every": 5} | settings),
        **({"checkpoint_every": 3} if "checkpoint_every" not in settings else {}),
    )


def score_by_weights(method: Any) -> Any:
    """A validation whose score depends on what was learnt."""

    def validate(done: int) -> dict[str, float]:
        return {"score": float(sum(p.detach().double().sum() for p in nn.Module.parameters(method.modules)))}

    return validate

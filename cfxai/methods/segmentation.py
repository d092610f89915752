"""Training of the ruler, which tells lesions from everything else: Dice and cross-entropy on their masks."""

from collections.abc import Iterator, Mapping

from monai.losses import DiceCELoss
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from cfxai.methods.learning_rate import LearningRate
from cfxai.nn.ema import Average


class Segmentation:
    """AdamW on Dice loss + cross-entropy of each pixel (Isensee et al. 2018, arXiv:1809.10486), by MONAI.

    Dice is of the batch's pooled pixels, since alone a normal image, without lesion, has none. The weights are
    averaged; the average is what measures later.

    Args:
        network: [b c *spatial] in [-1, 1] -> logits [b 1 *spatial], above 0 where it sees a lesion.
        steps: length of the training.
        learning_rate: its peak, from which it falls as a cosine; see `LearningRate`.
        weight_decay: of AdamW.
    """

    name = "segmentation"

    def __init__(
        self, network: nn.Module, *, steps: int, learning_rate: float = 3e-3, weight_decay: float = 1e-2
    ) -> None:
        self.network, self.loss = network, DiceCELoss(sigmoid=True, batch=True)
        self.average = Average(network, 0.99)
        self.rate = LearningRate("cosine", learning_rate, steps)
        self.modules = nn.ModuleDict({"network": network, "average": self.average, "rate": self.rate})
        optimizer = AdamW(network.parameters(), learning_rate, weight_decay=weight_decay)
        self.optimizers: Mapping[str, Optimizer] = {"network": optimizer}

    def losses(self, batch: Mapping[str, Tensor], step: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
        for group in self.optimizers["network"].param_groups:
            group["lr"] = self.rate(step)
        logits = self.network.train()(batch["image"]).float()
        yield "network", {"dice_ce": self.loss(logits, batch["mask"][:, None].float())}
        self.average.update(self.network)

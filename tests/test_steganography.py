"""Information that a translation hides in itself does not survive damage; what it shows openly does."""

import pytest
import torch

from cfxai.methods.steganography import cycle_errors
from cfxai.protocols import Counterfactual, Image, Labels


class Hides:
    """Makes every image grey; one that `writes` adds the original, a hundredth as strong, and can read it again."""

    def __init__(self, writes: bool) -> None:
        self.writes = writes

    def generate(self, image: Image, target: Labels) -> Counterfactual:
        away = target[0] == 0
        made = image * 0.01 * self.writes if away else (image * 100).clamp(-1, 1) * self.writes
        return Counterfactual(image, made, target)


def test_information_hidden_in_a_translation_does_not_survive_damage() -> None:
    image = torch.rand(3, 1, 32, 32) * 2 - 1
    source, target = torch.ones(3, dtype=torch.long), torch.zeros(3, dtype=torch.long)
    hidden, honest = (cycle_errors(Hides(writes), image, source, target) for writes in (True, False))
    assert hidden["plain"].max() < 1e-6
    assert (hidden["rounded"] > 0.05).all()
    assert (hidden["blurred"] > 0.1).all()
    for damage in ("plain", "rounded", "blurred"):
        torch.testing.assert_close(honest[damage], image.abs().flatten(1).mean(1) / 2)
    grey = cycle_errors(Hides(False), torch.full((1, 1, 8, 8), 0.5), source[:1], target[:1])
    assert grey["blur_alone"].item() == pytest.approx(0, abs=1e-6), "borders too"

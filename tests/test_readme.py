"""What README.md says: its links lead somewhere, its commands are accepted, and its examples are components."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from torch import nn

from cfxai.cli import commands
from cfxai.config.compose import compose
from cfxai.protocols import Attributor, Counterfactual, Explainer, Method

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
TO_BE_ADDED = ("method=flip", "data=mine")


def test_links_lead_somewhere() -> None:
    links = {link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in link}
    assert not [link for link in links if not (ROOT / link).exists()]


def training_commands() -> list[str]:
    joined = re.sub(r"\\\n\s*", " ", TEXT)
    return [line.split("#")[0].strip() for line in re.findall(r"tools/train\.py (-c conf/[^`\n]*)", joined)]


@pytest.mark.parametrize("line", [c for c in training_commands() if not c.endswith(TO_BE_ADDED)])
def test_training_commands_are_accepted(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    arguments = commands._train_arguments(shlex.split(line))
    settings = [setting for setting in arguments.overrides if not setting.startswith("hydra")]
    compose(Path(arguments.config[0]), settings, arguments.multirun)


def example(name: str) -> type:
    """The class `name`, defined in one of the Python blocks."""
    block = next(code for code in re.findall(r"```python\n(.*?)```", TEXT, re.S) if f"class {name}:" in code)
    scope: dict[str, type] = {}
    exec(block, scope)
    return scope[name]


def test_the_method_is_one() -> None:
    classifier, generator = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), nn.Conv2d(1, 1, 1)
    method = example("Flip")(classifier, generator)
    assert isinstance(method, Method)
    assert isinstance(method, Explainer)
    image, label = torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 1])
    for name, terms in method.losses({"image": image, "label": label}, 0):
        sum(terms.values()).backward()
        method.optimizers[name].step()
    assert isinstance(method.generate(image, torch.zeros_like(label)), Counterfactual)


def test_the_attributor_is_one() -> None:
    attributor = example("GradientEnergy")(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)))
    assert isinstance(attributor, Attributor)
    saliency = attributor.attribute(torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 1]))
    assert saliency.shape == (3, 8, 8)
    assert (saliency >= 0).all()

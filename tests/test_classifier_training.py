"""Training a classifier: the plain recipe, and what may be asked of it."""

import math
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import ReduceLROnPlateau
from toy import fabric, fit

from cfxai.classifier import classifier_key
from cfxai.classifier_training import check_settings, weights_of_classes
from cfxai.config.catalogue import CONF
from cfxai.data.dataset import Data
from cfxai.errors import ConfigError, NumericsError
from cfxai.loop import train_step
from cfxai.methods.classification import Classification
from cfxai.methods.learning_rate import LearningRate
from cfxai.nn.classifiers import compact
from cfxai.nn.ema import Average
from cfxai.nn.features import last_layer
from cfxai.run.checkpoint import load_checkpoint


def batch(step: int, size: int = 16, classes: int = 2) -> dict[str, Tensor]:
    """Images whose brightness is their class."""
    generator = torch.Generator().manual_seed(step)
    label = torch.randint(classes, (size,), generator=generator)
    return {"image": torch.rand(size, 1, 8, 8, generator=generator) - 0.5 + label.view(-1, 1, 1, 1) / 2, "label": label}


def plain(classes: int = 2) -> nn.Module:
    """A network without BatchNorm, whose head is registered first."""
    torch.manual_seed(0)
    network = nn.ModuleDict({"head": nn.Linear(6, classes), "conv": nn.Conv2d(1, 6, 3)})
    return Chain(network)


class Chain(nn.Module):
    def __init__(self, parts: nn.ModuleDict) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, image: Tensor) -> Tensor:
        return self.parts["head"](self.parts["conv"](image).tanh().flatten(2).mean(2))


def train(method: Classification, steps: int, accumulate: int = 1, **kinds: Any) -> list[float]:
    with_fabric = fabric()
    optimizers = {name: with_fabric.setup_optimizers(optimizer) for name, optimizer in method.optimizers.items()}
    return [
        train_step(method, optimizers, with_fabric, batch(step, **kinds), step, 0, accumulate)["ce"]
        for step in range(steps)
    ]


def assert_same(a: nn.Module, b: nn.Module, **tolerance: float) -> None:
    for (name, mine), theirs in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


def test_the_defaults_are_adamw_with_a_warm_cosine_bit_for_bit() -> None:
    classifier = compact(widths=(4, 8))
    by_hand = deepcopy(classifier)
    average, optimizer = Average(by_hand, 0.99), AdamW(by_hand.parameters(), 1e-2, weight_decay=1e-2)
    for step in range(40):
        optimizer.param_groups[0]["lr"] = 1e-2 * min(1, (step + 1) / 2) * (1 + math.cos(math.pi * step / 40)) / 2
        images = batch(step)
        loss = F.cross_entropy(by_hand.train()(images["image"]), images["label"], label_smoothing=0.02)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(by_hand)
    method = Classification(classifier, steps=40, learning_rate=1e-2, smoothing=0.02)
    train(method, 40)
    assert_same(method.classifier, by_hand, rtol=0, atol=0)
    assert_same(method.average, average, rtol=0, atol=0)


@pytest.mark.parametrize("class_weights", [None, [0.5, 2.0, 1.0]])
def test_parts_of_a_batch_add_up_to_the_whole(class_weights: list[float] | None) -> None:
    options = {"steps": 6, "learning_rate": 1e-2, "smoothing": 0.1, "class_weights": class_weights}
    whole = Classification(plain(3), **options)
    parts = Classification(plain(3), **options, accumulate=4)
    losses = [train(method, 6, n, size=32, classes=3) for method, n in ((whole, 1), (parts, 4))]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert_same(parts.classifier, whole.classifier, rtol=1e-4, atol=1e-6)
    assert_same(parts.average, whole.average, rtol=1e-4, atol=1e-6)


def test_phases_that_are_accumulated_are_one_step_by_the_mean_of_their_losses() -> None:
    class Line:
        def __init__(self) -> None:
            self.modules = nn.ModuleDict({"line": nn.Linear(1, 1, bias=False)})
            nn.init.ones_(self.modules["line"].weight)
            self.optimizers = {"line": SGD(self.modules.parameters(), 0.25)}

        def losses(self, _batch: Mapping[str, Tensor], step: int) -> Any:
            for slope in (1.0, 2.0, 3.0, 4.0):
                yield "line", {"loss": slope * self.modules["line"](torch.ones(1, 1)).sum()}

    line = Line()
    optimizers = {"line": fabric().setup_optimizers(line.optimizers["line"])}
    assert train_step(line, optimizers, fabric(), {}, 0, 0, 2) == {"loss": pytest.approx(3.5 * (1 - 0.25 * 1.5))}
    assert line.modules["line"].weight.item() == pytest.approx(1 - 0.25 * 1.5 - 0.25 * 3.5)


def test_a_part_that_is_not_finite_keeps_the_whole_step_from_being_taken() -> None:
    method = Classification(plain(), steps=6, accumulate=2)
    before = deepcopy(method.classifier)
    images = batch(0)
    images["image"][12] = torch.nan
    optimizers = {name: fabric().setup_optimizers(optimizer) for name, optimizer in method.optimizers.items()}
    with pytest.raises(NumericsError, match="loss term ce of the classifier is not finite"):
        train_step(method, optimizers, fabric(), images, 0, 0, 2)
    assert_same(method.classifier, before, rtol=0, atol=0)


def test_class_weights_multiply_the_loss_of_each_image() -> None:
    method = Classification(plain(3), steps=6, smoothing=0.1, class_weights=[0.5, 2.0, 1.0])
    images = batch(0, classes=3)
    _, terms = next(method.losses(images, 0))
    log_p = method.classifier(images["image"]).log_softmax(1)
    wanted = F.one_hot(images["label"], 3) * 0.9 + 0.1 / 3
    weight = torch.tensor([0.5, 2.0, 1.0])[images["label"]]
    assert terms["ce"].item() == pytest.approx((-(wanted * log_p).sum(1) * weight).mean().item(), rel=1e-5)


def test_balanced_class_weights_count_every_class_the_same() -> None:
    labels = torch.tensor([0] * 6 + [1] * 3 + [2]).numpy()
    found = weights_of_classes("balanced", labels, 4)
    assert found == pytest.approx([10 / 18, 10 / 9, 10 / 3, 0.0])
    assert weights_of_classes([1, 2, 3], labels, 3) == [1.0, 2.0, 3.0]
    assert weights_of_classes(None, labels, 3) is None
    with pytest.raises(ConfigError, match="class_weights: has 2 numbers, but there are 3 classes"):
        weights_of_classes([1, 2], labels, 3)


def test_the_last_layer_is_the_one_that_runs_last() -> None:
    network = plain()
    assert last_layer(network, batch(0)["image"]) is network.get_submodule("parts.head")
    with pytest.raises(ConfigError, match="no linear layer"):
        last_layer(nn.Flatten(), batch(0)["image"])


def test_a_frozen_backbone_stays_until_it_is_unfrozen() -> None:
    torch.manual_seed(0)
    classifier = compact(widths=(4, 8))
    head = last_layer(classifier, batch(0)["image"])
    method = Classification(classifier, steps=10, learning_rate=1e-2, head=head, unfreeze_at=0.5)
    before = deepcopy(classifier.state_dict())
    inputs: list[Tensor] = []
    head.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))

    train(method, 5)
    changed = {name for name, value in classifier.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"network.head.weight", "network.head.bias"}, (
        "weights and BatchNorm statistics of all others stay"
    )
    assert not any(features.requires_grad for features in inputs), "nothing is kept for a backward pass"
    assert all(p.grad is None for name, p in classifier.named_parameters() if ".head." not in name)

    next(method.losses(batch(5), 5))
    assert all(module.training for module in classifier.modules())
    train(method, 10)
    changed = {name for name, value in classifier.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.endswith("running_mean") for name in changed)
    assert {name for name, _ in classifier.named_parameters()} <= changed


def test_a_frozen_training_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    """Through the unfreezing, and with what the plateau remembers."""

    def method() -> Classification:
        torch.manual_seed(0)
        network = plain()
        head = network.get_submodule("parts.head")
        return Classification(network, steps=16, learning_rate=1e-2, schedule="plateau", head=head, unfreeze_at=0.5)

    def run_in(folder: Path, cuts: tuple[int, ...] = ()) -> Mapping[str, Tensor]:
        folder.mkdir()
        for cut in (*cuts, None):
            one = method()

            def batches(step: int, cut: int | None = cut) -> Mapping[str, Any]:
                if step == cut:
                    raise InterruptedError
                return batch(step)

            def validate(done: int, one: Classification = one) -> dict[str, float]:
                one.rate.observe(1.0)
                return {"score": 0.0}

            choose = {"steps": 16, "validate": validate, "validate_every": 2, "checkpoint_every": 3}
            if cut is None:
                fit(one, folder, batches=batches, **choose)
            else:
                with pytest.raises(InterruptedError):
                    fit(one, folder, batches=batches, **choose)
        assert one.rate(20) == pytest.approx(1e-2 * 0.2**2)
        return load_checkpoint(folder / "checkpoints/last.ckpt")[0]

    expected, found = run_in(tmp_path / "whole"), run_in(tmp_path / "cut", (4, 7, 11))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_schedules() -> None:
    assert [LearningRate("constant", 2.0, 100)(step) for step in (0, 4, 50, 99)] == pytest.approx([0.4, 2, 2, 2])
    steps = [LearningRate("step", 2.0, 100)(step) for step in (49, 50, 74, 75)]
    assert steps == pytest.approx([2, 0.2, 0.2, 0.02])
    with pytest.raises(ConfigError, match="choose one of cosine, constant, step, plateau, not 'cosin'"):
        LearningRate("cosin", 2.0, 100)


@settings(max_examples=40, deadline=None)
@given(losses=st.lists(st.sampled_from([0.25, 0.5, 0.75, 1.0, math.nan]), max_size=20))
def test_plateau_reduces_as_torch_does(losses: list[float]) -> None:
    rate = LearningRate("plateau", 1.0, 10)
    optimizer = SGD([nn.Parameter(torch.zeros(()))], 1.0)
    theirs = ReduceLROnPlateau(optimizer, factor=0.2, patience=2, threshold=0.0)
    for loss in losses:
        rate.observe(loss)
        theirs.step(loss)
        assert rate(9) == pytest.approx(optimizer.param_groups[0]["lr"])


def training(**changed: Any) -> DictConfig:
    base = OmegaConf.load(CONF / "base.yaml")
    return OmegaConf.merge(base["classifier_training"], changed)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"class_weights": "balanced"}, "class_weights: balanced batches are balanced already"),
        ({"unfreeze_at": 0.5}, "unfreeze_at: nothing is frozen; set classifier_training.freeze=backbone"),
        ({"calibrate": True}, "calibrate: this classifier has no temperature; use classifier=custom"),
    ],
)
def test_settings_that_contradict_each_other(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_settings(training(**changed), plain())
    check_settings(training(calibrate=True, class_weights="balanced", balanced=False), compact(widths=(4,)))


class Described(Data):
    fingerprint = "of the data"  # type: ignore[assignment]

    def __init__(self) -> None:
        pass


def key(classifier: dict[str, Any] | None = None, precision: str = "32-true", **changed: Any) -> str:
    sections = {"classifier_training": {"steps": 5, **changed}, "trainer": {"precision": precision}, "seed": 0}
    named = {"_target_": "cfxai.nn.classifiers.compact", **(classifier or {})}
    return classifier_key(OmegaConf.create({"classifier": named, "augment": None, **sections}), Described())


def test_what_trains_another_classifier_has_another_place_in_the_cache(tmp_path: Path) -> None:
    neutral = {k: v for k, v in training().items() if k in ("accumulate", "schedule", "freeze", "calibrate")}
    assert key() == key({"pretrained": None}, **neutral), (
        "settings that came later leave older artefacts where they are"
    )
    file = tmp_path / "start.pth"
    file.write_bytes(b"one")
    from_file = key({"pretrained": str(file)})
    others = [key(precision="bf16-mixed"), from_file, key({"pretrained": True}), key(accumulate=2), key(calibrate=True)]
    file.write_bytes(b"another")
    others += [key({"pretrained": str(file)}), key(schedule="step"), key(freeze="backbone"), key(class_weights=[1, 2])]
    assert len({key(), *others}) == len(others) + 1
    file.rename(tmp_path / "moved.pth")
    assert key({"pretrained": str(tmp_path / "moved.pth")}) == others[5]

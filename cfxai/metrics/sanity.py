"""Whether a map depends on what the classifier has learnt, and on what it is asked about.

An edge detector passes for an explanation until the classifier is randomised and its map stays the same.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from cfxai.metrics.robustness import Attribute
from cfxai.metrics.similarity import Similarity, similarity
from cfxai.nn.freeze import frozen
from cfxai.protocols import Image, Labels, Saliency, Target


@dataclass(frozen=True)
class Stage:
    """The maps of a classifier whose last layers are random.

    Attributes:
        layer: the deepest of them, the one nearest to the image.
        layers: how many of them there are.
        maps: [b *spatial], as the attributor gives them.
        similarity: of their strength |map| to that of the trained classifier's maps.
    """

    layer: str
    layers: int
    maps: Saliency
    similarity: Similarity


def weight_randomisation(
    attributor: Callable[[nn.Module], Attribute],
    classifier: nn.Module,
    image: Image,
    target: Labels | Target,
    *,
    stages: int | None = None,
    seed: int = 0,
) -> Iterator[Stage]:
    """Cascading randomisation: from the logits down, more and more layers (Adebayo et al. 2018, arXiv:1810.03292).

    A method that explains the classifier loses its map on the way: similarities fall towards 0.

    Args:
        attributor: makes the method for a classifier; `classifier` itself is only ever copied.
        stages: number of them, evenly spaced over the layers, the last with all of them random; None = a stage each
            layer. 1 is the efficient form, of full randomisation only.
        seed: of the new weights.
    """
    original = attributor(classifier)(image, target)
    for layer, layers, network in randomised(classifier, image, stages=stages, seed=seed):
        maps = attributor(network)(image, target)
        yield Stage(layer, layers, maps, similarity(original.abs(), maps.abs()))


def randomised(
    classifier: nn.Module, image: Image, *, stages: int | None = None, seed: int = 0
) -> Iterator[tuple[str, int, nn.Module]]:
    """Copies of the classifier with ever more random layers: (the deepest one, their number, the copy).

    Layers are the modules with parameters of their own, from the last one that starts on `image` to the first, so that
    it does not matter how a network registers them. What has `reset_parameters`, as torch's layers do, is initialised
    anew (batch norms to their initial state); other parameters, such as position embeddings, are shuffled.
    """
    names = _layers_from_the_logits(classifier, image)
    copy, done = deepcopy(classifier), 0
    for share in np.linspace(0, 1, (stages or len(names)) + 1)[1:]:
        count = max(1, round(share * len(names)))
        if count == done:
            continue
        copy = deepcopy(copy)
        for name in names[done:count]:
            _randomise(copy.get_submodule(name), seed, names.index(name))
        done = count
        yield names[done - 1], done, copy


def random_logit(
    attribute: Attribute, image: Image, label: Labels, classes: int, *, seed: int = 0
) -> tuple[Saliency, Similarity]:
    """The maps of another class, drawn anew for each image, and their similarity to those of `label`, signs included.

    A method that explains a decision says something else of another one (Sixt et al. 2020, arXiv:1912.09818): similar
    maps, near 1, are a failure, while with two classes opposite ones, near -1, may be right.
    """
    step = torch.randint(1, classes, (len(label),), generator=torch.Generator().manual_seed(seed)).to(label)
    other = attribute(image, (label + step) % classes)
    return other, similarity(attribute(image, label), other)


def _layers_from_the_logits(classifier: nn.Module, image: Image) -> list[str]:
    """Names of the modules with parameters of their own, last started first, each once."""
    started: list[str] = []
    with ExitStack() as hooks, frozen(classifier), torch.no_grad():
        for name, module in classifier.named_modules():
            if next(module.parameters(recurse=False), None) is not None:
                hooks.enter_context(module.register_forward_pre_hook(partial(_note, started, name)))
        classifier(image[:1])
    return list(dict.fromkeys(reversed(started)))


def _note(started: list[str], name: str, *_: object) -> None:
    started.append(name)


@torch.no_grad()
def _randomise(layer: nn.Module, seed: int, place: int) -> None:
    """Gives a layer new parameters; torch's random numbers elsewhere stay as they are."""
    # A seed as such could bring back the weights from which the training with the same seed began.
    mixed = int(np.random.SeedSequence([seed, place]).generate_state(1)[0])
    with torch.random.fork_rng():
        torch.manual_seed(mixed)
        reset = getattr(layer, "reset_parameters", None)
        if callable(reset):
            reset()
            return
        for parameter in layer.parameters(recurse=False):
            parameter.copy_(_shuffled(parameter))


def _shuffled(values: Tensor) -> Tensor:
    return values.flatten()[torch.randperm(values.numel()).to(values.device)].view_as(values)

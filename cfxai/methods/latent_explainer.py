"""What every explanation in the code of an autoencoder shares: the autoencoder, and the space fitted to its codes."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.optim import Optimizer

from cfxai.errors import ConfigError, DataError
from cfxai.latents.latent_space import LatentSpace
from cfxai.nn.weights import digest
from cfxai.protocols import Clips, Image, Method, Verify

Latent = Float[Tensor, "b z"]
CLASSIFIER, LABEL, GRADE = "classifier", "label", "grade"
"""What the head can be told that is no column: what the classifier calls an image, its label, and its grade."""
CLASSIFIED = (CLASSIFIER, LABEL, GRADE)
"""What a head can be told that the classifier should see changed as well."""


@runtime_checkable
class Representation(Method, Protocol):
    """A trainable way from images to (z, x_T) and back; `cfxai.methods.diffusion_autoencoder` is one."""

    network: nn.Module
    """What encodes and renders."""

    def checks(self, image: Image) -> dict[str, float]: ...

    def encode(self, image: Image) -> Latent: ...

    def encode_stochastic(self, image: Image, z: Latent) -> Image: ...

    def render(self, noise: Image, z: Latent, origin: Latent | None = None) -> Image:
        """The image under z; `origin` is the z that x_T was found under. Can be differentiated with respect to z."""
        ...


class LatentExplainer:
    """Trains the autoencoder; fits the space whenever it is to explain. How z then moves is for its subclasses.

    Args:
        classifier: f, under explanation.
        autoencoder: what makes (z, x_T) and renders them.
        space: the head, the latents' statistics, and the columns of the manifest that moves are to leave alone.
        told: what the head learns to read in z: what the `classifier` calls the training images, so that it stands for
            the classifier; their `label`; their `grade`; or a column of the manifest, whole numbers from 0 = normal.
        verify: undoes changes that the classifier does not need, unless the head is told a column; null = none.

    Raises:
        ConfigError: the space is to hold what the head is told, which is what moves.
    """

    def __init__(
        self,
        classifier: nn.Module,
        autoencoder: Representation,
        *,
        space: LatentSpace,
        told: str = CLASSIFIER,
        verify: Verify | None = None,
    ) -> None:
        if told in space.hold:
            raise ConfigError(f"method.space.hold: must not name {told}, which method.told says is to move.")
        self.classifier = classifier.eval().requires_grad_(False)
        self.autoencoder, self.space, self.network = autoencoder, space, autoencoder.network
        self.told, self.columns = told, {told, *space.hold}
        self.verify = verify if told in CLASSIFIED else None
        self.modules = nn.ModuleDict({**autoencoder.modules, "space": space})
        self.optimizers: Mapping[str, Optimizer] = autoencoder.optimizers
        self.clips = autoencoder.clips if isinstance(autoencoder, Clips) else {}

    def losses(self, batch: Mapping[str, Tensor], step: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """The autoencoder's."""
        yield from self.autoencoder.losses(batch, step)

    def checks(self, image: Image) -> dict[str, float]:
        """The autoencoder's."""
        return self.autoencoder.checks(image)

    def encode(self, image: Image) -> Latent:
        """The autoencoder's z."""
        return self.autoencoder.encode(image)

    def require(self, batch: Mapping[str, Any]) -> None:
        """
        Raises:
            DataError: the images lack a column that the head is told or the space is to hold, or its cells will not do.
        """
        known = [CLASSIFIER, *({LABEL, GRADE} & batch.keys()), *batch.get("columns", {})]
        if missing := sorted(self.columns.difference(known)):
            raise DataError(
                f"The images have no column {missing[0]}, which method.told or method.space.hold names (they have"
                f" {', '.join(sorted(known[1:]))}); add it to the manifest, or name another."
            )
        for name in self.columns - {CLASSIFIER}:
            self._values(name, _cells(batch, name))

    def fit(self, batches: Iterable[Mapping[str, Any]]) -> None:
        """Fits the space to the training split: "image", "group" and what it is told and to hold, image by image.

        Raises:
            DataError: what `require` or `LatentSpace.fit` refuses; a class that the classifier never calls, if it is
                told.
        """
        z, groups = [], []
        columns: dict[str, list[Any]] = defaultdict(list)
        for batch in batches:
            self.require(batch)
            z.append(self.autoencoder.encode(batch["image"]).cpu())
            groups += batch["group"]
            for name in self.columns:
                columns[name] += self._called(batch["image"]) if name == CLASSIFIER else _cells(batch, name)
        values = {name: self._values(name, cells) for name, cells in columns.items()}
        told = torch.from_numpy(values.pop(self.told).astype(np.int64))
        if self.told == CLASSIFIER and (unseen := set(range(self.space.classes)).difference(told.tolist())):
            raise DataError(
                f"The classifier calls none of the {len(told)} training images class {min(unseen)}, so that no head"
                " can learn to tell it; train it longer (classifier_training.steps), or set method.told=label."
            )
        self.space.fit(torch.cat(z), told, groups, values, digest=digest(self.autoencoder.network))

    @torch.no_grad()
    def _called(self, image: Image) -> list[int]:
        return self.classifier(image).argmax(1).tolist()

    def _values(self, name: str, cells: Sequence[Any]) -> Shaped[np.ndarray, " n"]:
        """Numbers, or names where a cell is no number."""
        if empty := sum(cell == "" for cell in cells):
            raise DataError(
                f"Column {name} is empty for {empty} of {len(cells)} training images; fill it in, or remove those rows."
            )
        values = np.array(cells)
        with suppress(ValueError):
            values = values.astype(float)
        if name == self.told and (values.dtype.kind != "f" or (values % 1 != 0).any()):
            raise DataError(f"Column {name} must hold whole numbers, 0 for normal, to be read by a head (method.told).")
        return values

    def _readings(self, z: Latent, moved: Latent, rendered: Image) -> dict[str, Tensor]:
        """What the head says of z and of the rendered image, encoded again; and how far z was moved.

        `score` and `reencoded_score` [b], of several classes without order [b k]; `grade` and `reencoded_grade` [b], as
        predicted; `move` [b], in standard deviations of latents.
        """
        again = self.autoencoder.encode(rendered)
        return {
            "score": self.space.score(z).squeeze(1),
            "reencoded_score": self.space.score(again).squeeze(1),
            "grade": self.space.predicted(z),
            "reencoded_grade": self.space.predicted(again),
            "move": self.space.length(moved - z),
        }


def _cells(batch: Mapping[str, Any], name: str) -> Sequence[Any]:
    return batch[name].tolist() if name in (LABEL, GRADE) else batch["columns"][name]

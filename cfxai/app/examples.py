"""Images of the run's test split to begin with: pictures only, no label and no name."""

import logging

import numpy as np
from PIL import Image as Pil

from cfxai.app.pictures import picture
from cfxai.errors import CfxError
from cfxai.explaining.opening import Opened
from cfxai.explaining.saving import window
from cfxai.loaded import LoadedRun
from cfxai.selection import shown_cases

log = logging.getLogger("cfxai")

COUNT = 12


def examples_of(run: LoadedRun) -> list[Opened]:
    """Normal and abnormal images in turn; none, with a warning, where the run's data cannot be read."""
    try:
        dataset = run.data.split("test")
    except CfxError as error:
        log.warning("The page has no examples: %s", error)
        return []
    chosen = sorted(shown_cases(dataset, list(range(len(dataset))), COUNT))
    plane = run.data.recipe.plane
    return [Opened.prepared("An example", dataset.images[i], dataset.channel, plane) for i in chosen]


def thumbnail(opened: Opened) -> Pil.Image:
    """The image, or the middle slice of a volume."""
    middle = opened.pixels.shape[1] // 2
    return picture(np.asarray(window(opened.pixels[:, middle], opened.limits)))

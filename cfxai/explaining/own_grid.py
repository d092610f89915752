"""From the cells that the classifier sees back to the pixels of the image that they were sampled from, and its file."""

import numpy as np
from jaxtyping import Float, Shaped

from cfxai.data.geometry import Axis, from_display, resample
from cfxai.data.prepare import GREY
from cfxai.explaining.opening import Opened


def with_change(opened: Opened, change: Float[np.ndarray, "n c *spatial"]) -> Float[np.ndarray, "colours depth h w"]:
    """The image with a change of its cells, of [-1, 1]: in native values, inside what its format can hold.

    Only the change is sampled, so that detail which the classifier never saw stays.
    """
    if opened.channel is not None:
        change = change[:, opened.channel : opened.channel + 1]
    low, high = opened.limits
    native = to_own_grid(opened, np.moveaxis(change, 1, 0) * np.float32((high - low) / 2))
    if len(native) == 3 and len(opened.pixels) == 1:
        native = np.tensordot(GREY, native, axes=1)[None]
    changed = opened.pixels + native  # a change of grey moves all colours alike
    return changed if opened.value_range is None else np.clip(changed, *opened.value_range)


def to_own_grid(opened: Opened, cells: Float[np.ndarray, "c n *spatial"]) -> Float[np.ndarray, "c depth h w"]:
    """Values of cells at the image's pixels: linear between cells, their mean where pixels are larger; 0 outside."""
    pixels = resample(cells, [_inverse(axis) for axis in opened.axes], fill=0.0)
    if len(opened.axes) == 3:
        return pixels[:, 0]
    whole = np.zeros((len(cells), *opened.pixels.shape[1:]), np.float32)
    whole[:, opened.slices] = pixels
    return whole


def in_file_order(opened: Opened, stacks: Shaped[np.ndarray, "colours depth h w"]) -> Shaped[np.ndarray, "..."]:
    """Values at the image's pixels as looked at, in the order and shape of its file; colours last."""
    if opened.plane is None or opened.affine is None:
        channels = [stack[0] for stack in stacks]
    else:
        channels = [from_display(stack, opened.affine, opened.plane).reshape(opened.file_shape) for stack in stacks]
    return channels[0] if len(channels) == 1 else np.stack(channels, axis=-1)


def _inverse(axis: Axis) -> Axis:
    """The pixels of an image as cells over the cells that sample it."""
    return Axis(axis.size, -axis.start / axis.step, (axis.length - axis.start) / axis.step, axis.length)

"""The diffusion autoencoder's own code, from a checkout of matanat/dae_counterfactual, on our initial weights."""

import re
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn

from cfxai.nn.autoencoder import Autoencoder

ABSENT = ("pytorch_lightning.callbacks", "lmdb", "lmdb_writer", "medmnist", "medmnist.dataset", "pytorch_fid", "lpips")
"""What it imports for other tasks than a training step, or without having it."""
PATCHED = r"(encoder\.)?"
NAMES: list[tuple[str, Callable[[re.Match[str]], str]]] = [
    (r"time_embed\.time_embed\.(\d)\.", lambda found: f"unet.time.{found[1]}."),
    (r"(encoder\.)?input_blocks\.0\.0\.", lambda found: f"{part(found)}down.stem.1."),
    (r"(encoder\.)?input_blocks\.(\d+)\.0\.", lambda found: f"{part(found)}down.stages.{int(found[2]) - 1}.block."),
    (r"(encoder\.)?input_blocks\.(\d+)\.1\.", lambda found: f"{part(found)}down.stages.{int(found[2]) - 1}.then."),
    (r"(encoder\.)?middle_block\.0\.", lambda found: f"{part(found)}middle.0.block."),
    (r"(encoder\.)?middle_block\.1\.", lambda found: f"{part(found)}middle.0.then."),
    (r"(encoder\.)?middle_block\.2\.", lambda found: f"{part(found)}middle.1.block."),
]

"""Every test runs on one thread, so that several fit beside each other, and from the same seed whatever ran before."""

import os
import random

import numpy as np
import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of processes that tests start, and of pytest's workers
settings.register_profile("same-each-time", derandomize=True, deadline=None)
settings.load_profile("same-each-time")


@pytest.fixture(autouse=True)
def seeded() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)

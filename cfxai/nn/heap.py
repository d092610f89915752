"""Memory that the C library keeps between tensors."""

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # mallopt's names for its options, malloc.h
LARGEST = 1 << 30  # bytes; what is larger still comes from the system, and goes back to it


def keep_freed_memory() -> bool:
    """From now on, memory of freed tensors serves the next ones; true if the C library can be told so (glibc).

    By default glibc hands it back, and the system fills every new tensor with zeros first: on a CPU, several times the
    cost of adding two tensors. The process then holds on to the most that it ever used at once.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; Windows opens none without a name
        return False
    return bool(mallopt(MMAP_THRESHOLD, LARGEST)) and bool(mallopt(TRIM_THRESHOLD, -1))

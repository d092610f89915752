"""How results are worded."""

from collections.abc import Sequence


def number(value: float) -> str:
    """Three significant digits."""
    return f"{value:.3g}"


def p_value(p: float, name: str = "p") -> str:
    """`p = 0.012`, `p < 0.001`, or that there is none."""
    if p != p:
        return f"{name} undefined"
    return f"{name} < 0.001" if p < 0.001 else f"{name} = {p:.3f}"


def counted(count: int, noun: str) -> str:
    """`1 image`, `2 images`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def left_out(images: int) -> tuple[str, ...]:
    """Nothing, or that a result is not of all images."""
    return (f"{counted(images, 'image')} left out",) if images else ()


def sentence(parts: Sequence[str]) -> str:
    """The parts as one line."""
    return "; ".join(parts) + "."

"""The hint at the end of an error message: the nearest valid name, or the valid names when there are few."""

from collections.abc import Iterable
from difflib import get_close_matches


def hint(word: str, options: Iterable[str], listed: int = 24) -> str:
    """Return '; did you mean X?', else '; choose from A, B, C' when at most `listed` options exist, else ''."""
    names = sorted(set(options))
    close = get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]}?"
    if 0 < len(names) <= listed:
        return f"; choose from {', '.join(names)}"
    return ""

"""The command `tools/latent_heads.py`: how well linear heads read a table of latents."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from cfxai.cli.arguments import Arguments, run
from cfxai.cli.help import latent_heads_help
from cfxai.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

FINDING = {"accuracy": "accuracy", "F1": "f1", "ROC-AUC": "auroc"}
GRADE = {"MAE": "mae", "macro-F1": "macro_f1", "QWK": "qwk", "Spearman": "spearman"}


def latent_heads() -> NoReturn:
    """`tools/latent_heads.py`."""
    run(latent_heads_command)


def latent_heads_command(argv: list[str]) -> int:
    """Fit and score the heads; return the exit code."""
    parser = Arguments()
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.read(argv)
    if arguments.help:
        print(latent_heads_help())
        return 0
    if arguments.run is not None or len(arguments.files) != 1:
        raise ConfigError("name one file of latents: python tools/latent_heads.py latents.npz")
    for flag, least in (("draws", 100), ("seed", 0)):
        if (value := getattr(arguments, flag)) < least:
            raise ConfigError(f"--{flag} {value}: must be {least} or more")
    from rich.console import Console

    from cfxai.latents.comparison import compare_heads
    from cfxai.latents.table import read_table
    from cfxai.run.checkpoint import write_atomically

    (file,) = arguments.files
    found = compare_heads(read_table(file), draws=arguments.draws, seed=arguments.seed)
    if arguments.json is not None:
        write_atomically(arguments.json, json.dumps(found, indent=1).encode())
    console = Console()
    for split in (found["split"], *(name for name in found["n"] if name in found)):
        for table in _tables(found, split):
            console.print(table)
    return 0


def _tables(found: Mapping[str, Any], split: str) -> Iterator["Table"]:
    """The heads' scores on a split: about any finding, and about the grade."""
    heads = {name: value for name, value in found.items() if isinstance(value, dict) and "penalty" in value}
    scores = heads if split == found["split"] else found[split]
    counts = f"{found['n'][split]} of {split}, fitted to {found['n']['train']} of train"
    table = _table(f"any finding, {counts}", ("penalty", *FINDING))
    for name, head in heads.items():
        table.add_row(name, _penalty(head["penalty"]), *(_figure(scores[name], key) for key in FINDING.values()))
    table.caption = "\n".join(
        ["In brackets 95 % intervals.", *(f"{n}: {h['note']}." for n, h in heads.items() if "note" in h)]
    )
    yield table
    table = _table(f"grade, {counts}", GRADE)
    for name in heads:
        if scores[name]["mae"] is not None:
            table.add_row(name, *(_figure(scores[name], key) for key in GRADE.values()))
    unrounded = scores["ols_distance"]["mae_unrounded"]
    table.caption = f"ols_distance before its grades are clipped and rounded: MAE {unrounded:.3f}."
    yield table


def _table(title: str, columns: Iterable[str]) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left", caption_justify="left")
    for column in ("head", *columns):
        table.add_column(column, justify="left" if column in ("head", "penalty") else "right", no_wrap=True)
    return table


def _penalty(chosen: Mapping[str, float | str]) -> str:
    words = (value if isinstance(value, str) else f"{key} {value:g}" for key, value in chosen.items())
    return ", ".join(words) or "analytic"


def _figure(scores: Mapping[str, Any], key: str) -> str:
    value, interval = scores[key], scores[f"{key}_ci"]
    if value is None:
        return "–"
    return f"{value:.3f}" if interval is None else f"{value:.3f}\n[{interval[0]:.2f}, {interval[1]:.2f}]"

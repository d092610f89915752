"""What readers found where: a table of findings per image, and which regions each finding is about.

The findings, a CSV, one line per finding:

    image,term,severity
    person7_bacteria_12,consolidation,2
    person7_bacteria_12,air bronchogram,1
    IM-0117-0001,,

`image` is an image's id, `severity` a number >= 0 (without that column, 1). A line without a term says that the image
was read and nothing found; an image without any line was not read, which is something else.

The terms, a YAML or a CSV (`term,regions,parent`, regions separated by `;`), such as groups of HPO terms or the zones
of a radiology report:

    consolidation: {regions: [right lower zone, left lower zone]}
    air bronchogram: {parent: consolidation}      # without regions of its own, those of its parent
    overall image quality: {regions: []}          # about no region
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from jaxtyping import Float

from cfxai.config.nearest import hint
from cfxai.errors import ConfigError, DataError

Terms = Mapping[str, tuple[str, ...]]
"""Term -> the regions that it is about."""


class Findings:
    """The severity of what was found in each region of each image.

    Args:
        table: CSV of findings, see above.
        terms: YAML or CSV of terms, see above.

    Raises:
        DataError: a file that is missing or not as above, a term that `terms` lacks, a finding that is listed twice.
        ConfigError: terms with an unknown or circular parent.
    """

    def __init__(self, table: str | Path, terms: str | Path) -> None:
        self.table, self.terms = Path(table).expanduser(), read_terms(Path(terms).expanduser())
        self._terms_file = terms
        rows = _read_csv(self.table, ["image", "term"])
        rows["severity"] = _severity(rows, self.table)
        named = rows[rows["term"] != ""]
        if unknown := [term for term in named["term"].unique() if term not in self.terms]:
            raise DataError(f"{self.table}: {terms} has no term '{unknown[0]}'{hint(unknown[0], self.terms)}.")
        if (twice := named.duplicated(["image", "term"])).any():
            first = named[twice].iloc[0]
            raise DataError(f"{self.table}: lists '{first['term']}' of image {first['image']} twice; keep one line.")
        self._read = set(rows["image"])
        self._named = named

    def severity(self, ids: Sequence[str], regions: Sequence[str]) -> Float[np.ndarray, "n r"]:
        """Σ of the severities of the terms about each region; NaN for an image that was not read.

        Raises:
            ConfigError: a term is about a region that is not among `regions`. DataError: none of `ids` was read.
        """
        for term, about in self.terms.items():
            if unknown := [region for region in about if region not in regions]:
                raise ConfigError(
                    f"{self._terms_file}: '{term}' is about '{unknown[0]}', which is no region"
                    f"{hint(unknown[0], regions)}."
                )
        place = {id: number for number, id in enumerate(ids)}
        if not self._read & place.keys():
            raise DataError(
                f"{self.table}: has none of the {len(ids)} images, which are called like {next(iter(ids), '-')};"
                f" it has {min(self._read, default='none')}."
            )
        found = np.full((len(ids), len(regions)), np.nan)
        found[[place[id] for id in self._read & place.keys()]] = 0
        column = {region: number for number, region in enumerate(regions)}
        for row in self._named.itertuples():
            if row.image in place:
                found[place[row.image], [column[region] for region in self.terms[row.term]]] += row.severity
        return found


def read_terms(path: Path) -> Terms:
    """Term -> regions, from a YAML or CSV file; parents resolved.

    Raises:
        DataError: the file is missing or not as described above.
        ConfigError: a term without regions and parent, or with an unknown or circular parent.
    """
    entries = _terms_of_csv(path) if path.suffix.lower() == ".csv" else _terms_of_yaml(path)
    terms: dict[str, tuple[str, ...]] = {}
    for term in entries:
        seen = [term]
        while entries[seen[-1]].get("regions") is None:
            parent = entries[seen[-1]].get("parent")
            if parent is None:
                raise ConfigError(f"{path}: '{seen[-1]}' needs regions or a parent; set regions: [] if it has none.")
            if parent not in entries:
                raise ConfigError(f"{path}: the parent of '{seen[-1]}', '{parent}', is no term{hint(parent, entries)}.")
            if parent in seen:
                raise ConfigError(f"{path}: '{parent}' is its own ancestor; give one of its line regions.")
            seen.append(parent)
        terms[term] = tuple(dict.fromkeys(entries[seen[-1]]["regions"]))
    return terms


def _terms_of_yaml(path: Path) -> dict[str, dict[str, Any]]:
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path}: cannot be read as a YAML file of terms.") from error
    if not isinstance(entries, dict) or not all(_is_entry(entry) for entry in entries.values()):
        raise DataError(f"{path}: each line must be like  consolidation: {{regions: [left lung], parent: opacity}}.")
    return {str(term): entry for term, entry in entries.items()}


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not entry.keys() <= {"regions", "parent"}:
        return False
    regions = entry.get("regions")
    return regions is None or (isinstance(regions, list) and all(isinstance(region, str) for region in regions))


def _terms_of_csv(path: Path) -> dict[str, dict[str, Any]]:
    rows = _read_csv(path, ["term", "regions"])
    if (twice := rows["term"].duplicated()).any():
        raise DataError(f"{path}: lists '{rows['term'][twice].iloc[0]}' twice; keep one line.")
    parents = rows["parent"] if "parent" in rows else pd.Series("", rows.index)
    entries = {}
    for term, regions, parent in zip(rows["term"], rows["regions"], parents, strict=True):
        listed = [region.strip() for region in regions.split(";") if region.strip()]
        entries[term] = {"regions": None if parent and not listed else listed, "parent": parent or None}
    return entries


def _read_csv(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a CSV file.") from error
    if missing := [column for column in columns if column not in rows]:
        raise DataError(f"{path}: has no column {missing[0]}; it needs {', '.join(columns)}.")
    return rows


def _severity(rows: pd.DataFrame, path: Path) -> pd.Series:
    """As numbers; of lines without a term, 0."""
    if "severity" not in rows:
        return (rows["term"] != "").astype(float)
    severity = pd.to_numeric(rows["severity"].where(rows["term"] != "", "0"), errors="coerce")
    if (wrong := ~(severity >= 0) | np.isinf(severity)).any():
        first = rows[wrong].iloc[0]
        raise DataError(f"{path}: severity '{first['severity']}' of image {first['image']} is no number >= 0.")
    return severity

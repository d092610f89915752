"""What an evaluation shows: the table on the terminal, the table of cases and the pictures of patients."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table
from torch import Tensor

from cfxai.protocols import Result
from cfxai.viz import Picture, agreement, cut, grey, panel, telling_slice

LOCALISATION = {
    "IoU [95 % CI]": lambda m: _interval(m["iou"], m["iou_ci"]),
    "Dice": lambda m: _number(m["dice"]),
    "pixel AUPRC": lambda m: _number(m["pixel_auprc"]),
    "pointing": lambda m: _number(m["pointing_game"]),
}
COUNTERFACTUALS = {
    "flip rate": lambda m: _number(m["flip_rate"]),
    "validity": lambda m: _number(m["counterfactual_validity"]),
    "L1": lambda m: _number(m["l1"], 4),
    "normal changed": lambda m: _percent(m["normal_changed_area"]),
    "KID": lambda m: _number(m["kid"], 4),
    "FID": lambda m: _number(m["fid"], 2),
    "s/image": lambda m: _number(m["seconds_per_image"], 4),
}
BOTH_WAYS = {
    "flips to normal": lambda m: _interval(m.get("flip_rate_to_normal"), m.get("flip_rate_to_normal_ci")),
    "to abnormal": lambda m: _interval(m.get("flip_rate_to_abnormal"), m.get("flip_rate_to_abnormal_ci")),
    "oracle's": lambda m: _interval(m.get("oracle_flip_rate"), m.get("oracle_flip_rate_ci")),
    "target p": lambda m: _number(m.get("target_probability")),
    "SSIM": lambda m: _number(m.get("ssim")),
    "sparsity": lambda m: _number(m.get("sparsity")),
    "high freq. ↓": lambda m: _number(m.get("high_frequency_energy")),
    "cycle L1": lambda m: _number(m.get("cycle_l1"), 4),
    "identity L1": lambda m: _number(m.get("identity_l1"), 4),
}
LATENT = {
    "AUROC": lambda m: _interval(m.get("head_auroc"), m.get("head_auroc_ci")),
    "accuracy": lambda m: _number(m.get("head_accuracy")),
    "re-encoded flips": lambda m: _number(m["reencoded_flip_rate"]),
    "way, sd": lambda m: _number(m["latent_move"], 2),
    "grade MAE": lambda m: _number(m.get("grade_mae")),
    "kappa": lambda m: _number(m.get("grade_qwk")),
    "Spearman": lambda m: _number(m.get("grade_spearman")),
}
FAITHFULNESS = {
    "deletion ↓": lambda m: _number(m["deletion"]),
    "below random": lambda m: _number(m["deletion_below_random"]),
    "insertion ↑": lambda m: _number(m["insertion"]),
    "above random": lambda m: _number(m["insertion_above_random"]),
    "by regions": lambda m: _number(m.get("region_deletion_below_random")),
    "ROAD ↑": lambda m: _number(m["road"]),
    "lesion's part ↑": lambda m: _number(m.get("relevance_mass")),
    "Gini": lambda m: _number(m.get("gini")),
    "s/image": lambda m: _number(m["seconds_per_image"], 4),
}
SANITY = {
    "all layers random": lambda m: _number(m["randomised_spearman"]),
    "(SSIM)": lambda m: _number(m["randomised_ssim"]),
    "another class": lambda m: _number(m["random_logit_spearman"]),
    "max-sensitivity ↓": lambda m: _number(m["max_sensitivity"]),
    "infidelity ↓": lambda m: _number(m["infidelity"]),
}
BESIDE = ("control", "ceiling")


def tables(metrics: Mapping[str, Any]) -> list[Table]:
    """Where the lesion is, for every explainer; how the counterfactuals are, and the rest where it was measured."""
    other = "fixed" if metrics["cf_threshold_rule"] == "auto" else "auto"
    rows = dict(metrics["explainers"]) | {name: metrics[name] for name in BESIDE if metrics.get(name)}

    where = _table(_title(metrics), ["explainer", "threshold", *LOCALISATION, f"IoU at {other} threshold"])
    where.caption = _caption(metrics)
    for name, m in rows.items():
        alternative = m.get(other, {})
        last = f"{_number(alternative.get('iou'))} ({_number(alternative.get('threshold'))})"
        where.add_row(name, _number(m["threshold"]), *(render(m) for render in LOCALISATION.values()), last)

    realism = None if metrics["realism"] is None else f"KID and FID: {metrics['realism']}."
    changed = {name: m for name, m in rows.items() if m["l1"] is not None}
    how = _filled("counterfactuals", COUNTERFACTUALS, changed, realism)
    more = (how, both_ways(rows), latent(rows), faithfulness(rows), sanity(rows))
    return [where, *(table for table in more if table.row_count)]


def both_ways(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Whether the classifier's mind is changed in both directions, and by something that is not noise."""
    caption = (
        "Flips of images that the classifier calls by their label; the oracle is a classifier trained by itself.\n"
        "Control: an adversarial perturbation, which flips the classifier and explains nothing."
    )
    measured = {name: m for name, m in rows.items() if m.get("flip_rate_to_normal") is not None}
    return _filled("both ways", BOTH_WAYS, measured, caption)


def latent(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """What a linear head reads in the code z of an image, and in that of its counterfactual."""
    caption = (
        "AUROC and accuracy against labels; mean error, quadratic kappa and rank correlation of its grades,\n"
        "where the data have them. Re-encoded: it reads the rendered image, encoded again, as what was asked for.\n"
        "Way of z in standard deviations of training images. Intervals of all these are in metrics.json."
    )
    measured = {name: m for name, m in rows.items() if "reencoded_flip_rate" in m}
    return _filled("head on z", LATENT, measured, caption)


def faithfulness(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Whether the classifier looks where each map says."""
    caption = (
        "Areas under the probability as pixels are removed or inserted in the map's order,\n"
        "and how much better that is than a random order on the same images, by regions too;\n"
        "of ROAD a random order has 0. Intervals are in metrics.json."
    )
    measured = {name: m for name, m in rows.items() if "deletion" in m}
    return _filled("faithfulness", FAITHFULNESS, measured, caption)


def sanity(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Whether the saliency maps depend on the classifier and on the question."""
    caption = (
        "Rank correlation of a map with that of a random classifier, which should be\n"
        "near 0, and with that of another class, which should not be near 1; how much a\n"
        "map moves when the image changes by 1 %; and which part of the score's changes\n"
        "under noise it does not explain."
    )
    measured = {name: m["sanity"] for name, m in rows.items() if m.get("sanity")}
    return _filled("sanity", SANITY, measured, caption, of="attributor")


def _filled(
    title: str,
    columns: Mapping[str, Callable[[Mapping[str, Any]], str]],
    rows: Mapping[str, Mapping[str, Any]],
    caption: str | None,
    *,
    of: str = "explainer",
) -> Table:
    """A row for each of `rows`: its name, and what the columns make of its metrics."""
    table = _table(title, [of, *columns])
    table.caption = caption
    for name, m in rows.items():
        table.add_row(name, *(render(m) for render in columns.values()))
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=not number)
    return table


def classifier_line(metrics: Mapping[str, Any]) -> str:
    found, point = metrics["classifier"], metrics["classifier"]["operating_point"]
    chosen = "" if isinstance(point["rule"], float) else f" ({point['rule']} on validation)"
    before = "" if found["temperature"] is None else f" ({_number(found['ece_uncalibrated'])} before calibration)"
    return (
        f"classifier on {metrics['split']}: AUROC {_interval(found['auroc'], found['auroc_ci'])}, "
        f"AUPRC {_interval(found['auprc'], found['auprc_ci'])}, accuracy {_number(found['accuracy'])}, "
        f"ECE {_number(found['ece'])}{before}; from p {_number(point['threshold'])}{chosen}: "
        f"sensitivity {_interval(point['sensitivity'], point['sensitivity_ci'])}, "
        f"specificity {_interval(point['specificity'], point['specificity_ci'])} "
        f"({metrics['images']} images of {metrics['patients']} patients)"
    )


def case_row(name: str, result: Result, maps: Mapping[str, Tensor]) -> dict[str, Picture]:
    """The pictures of one image: x, x_cf, |x - x_cf|, mask against truth, and the saliency maps `maps`.

    A volume shows one slice, `shown_slice`.
    """
    number, changed = shown_slice(result), result.counterfactual
    channel = slice(None) if changed is None or changed.channel is None else slice(changed.channel, changed.channel + 1)
    row: dict[str, Picture] = {"x": grey(result.image[0, channel].numpy(), number)}
    if changed is not None:
        row["x_cf"] = grey(changed.counterfactual[0, channel].numpy(), number)
        row["|x - x_cf|"] = cut(changed.difference[0].numpy(), number)
    mask = cut(result.mask[0].numpy(), number)
    row["mask"] = mask.astype(np.float32)
    if result.truth is not None:
        truth = cut(result.truth[0].numpy(), number)
        row["truth"] = truth.astype(np.float32)
        row["hit, false, missed"] = agreement(row["x"], mask, truth)
    for attributor, saliency in maps.items():
        row[f"~{attributor}"] = cut(saliency[0].numpy(), number)
    return row


def shown_slice(result: Result) -> int | None:
    """The slice of a volume with most lesion, else with most mask, else the middle one; None for 2-D images."""
    marked = [mask[0].numpy() for mask in (result.truth, result.mask) if mask is not None]
    return telling_slice(*marked)


def case_title(result: Result) -> str:
    """Patient, label, the classifier's probability of abnormal before and after, and which slice of a volume it is."""
    label = "abnormal" if int(result.label[0]) else "normal"
    before = 1 - float(result.probability[0, 0])
    text = f"{result.group[0]}\n{label}, p {before:.2f}"
    if result.counterfactual_probability is not None:
        text += f" → {1 - float(result.counterfactual_probability[0, 0]):.2f}"
    if (number := shown_slice(result)) is not None:
        text += f"\nslice {number + 1} of {result.mask.shape[1]}"
    return text


def write_panels(
    directory: Path, main: str, shown: Mapping[str, Mapping[int, Result]], ids: Sequence[str], caption: str
) -> list[Path]:
    """`overview.png` with a row per image, and one PNG an image; returns their paths, the overview first."""
    rows, titles, paths = [], [], []
    for index, result in shown[main].items():
        maps = {n: s[index].saliency for n, s in shown.items() if n != main and index in s}
        rows.append(case_row(main, result, maps))
        titles.append(case_title(result))
        path = directory / f"{ids[index].replace('/', '-')}.png"
        panel(path, rows[-1:], titles=titles[-1:], caption=caption)
        paths.append(path)
    if not rows:
        return []
    overview = directory / "overview.png"
    panel(overview, rows, titles=titles, caption=caption)
    return [overview, *paths]


def write_made_abnormal(path: Path, main: str, shown: Mapping[int, Result]) -> None:
    """A row for each normal image that was made abnormal; nothing where none was."""
    if shown:
        rows = [case_row(main, result, {}) for result in shown.values()]
        titles = [case_title(result) for result in shown.values()]
        panel(path, rows, titles=titles, caption="normal images, made abnormal")


def write_sanity(path: Path, pictures: Mapping[str, Mapping[str, Picture]]) -> None:
    """A row for each attributor: its map of one image, of ever more random classifiers, and of another class."""
    caption = "strength of the maps |S|; all layers are random from the logits down to the one named"
    panel(path, list(pictures.values()), titles=list(pictures), caption=caption)


def write_cases(path: Path, cases: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """A CSV with a row for each explainer and case; see `Segmentation` for the columns."""
    table = pd.DataFrame([{"explainer": name, **case} for name, rows in cases.items() for case in rows])
    table.to_csv(path, index=False)


def _title(metrics: Mapping[str, Any]) -> str:
    return f"{metrics['run']} on {metrics['split']}: {metrics['images']} images of {metrics['patients']} patients"


def _caption(metrics: Mapping[str, Any]) -> str:
    lines = [
        "IoU and Dice pool the pixels of abnormal images; the interval is a bootstrap over patients.",
        *_threshold_lines(metrics["threshold_rules"]),
    ]
    if metrics["ceiling"] is not None:
        lines.append("Ceiling: the true lesion-free image as the counterfactual, under the same threshold rule.")
    return "\n".join(lines)


def _threshold_lines(rules: Sequence[str]) -> list[str]:
    """A line for each rule, "name: rule", that some explainers' thresholds were chosen by."""
    named = [rule.partition(": ")[::2] for rule in rules]
    shared = {rule: [name for name, one in named if one == rule] for _, rule in named}
    if len(shared) == 1 and len(rules) > 1:
        return [f"Thresholds: {rule}, each explainer's own." for rule in shared]
    return [f"Threshold of {', '.join(names)}: {rule}." for rule, names in shared.items()]


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


def _interval(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if interval is None else f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"

"""Does CQL's penalty do what it is for? Draw and tabulate the study config/studies/offline_evidence.yaml.

    python docs/evidence/penalty.py results/offline_evidence [--figure docs/images/penalty.png]

Prints the evaluation return and the largest Q-value at some iterations, and the verdict. Exit code 0: CQL
ends above random play and its Q-values stay within what is possible, those without the penalty end above
CQL's; 1: not; 2: files are missing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from moerl.figures.curves import band_curve, ticks, x_axis
from moerl.figures.style import MUTED, PAGE, SPARE, paper_style, save
from moerl.study.config import load_study
from moerl.study.study_file import read_yaml

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "config" / "studies" / "offline_evidence.yaml"
TABLES = {"CQL": "offline_values", "without its penalty": "offline_values_no_penalty"}
LABELS = {"return": "Evaluation return", "q_value": "Largest Q-value"}
ROWS = 6


def read(results: Path) -> pd.DataFrame:
    """Columns series, metric, gradient_steps, mean. Raises FileNotFoundError."""
    found = []
    for series, name in TABLES.items():
        table = pd.read_csv(results / "tables" / f"{name}.csv")
        found.append(table.assign(series=series)[["series", "metric", "gradient_steps", "mean"]])
    return pd.concat(found, ignore_index=True)


def possible() -> float:
    """The largest return that clipped rewards can be discounted to: one point at every agent step."""
    gamma: float = read_yaml(ROOT / "config" / "agents.yaml")["cql"]["gamma"]
    return 1 / (1 - gamma)


def draw(table: pd.DataFrame, random_return: float) -> Figure:
    """Both metrics over training, side by side."""
    figure = Figure((PAGE, 2.1), layout="constrained")
    along, unit, label = x_axis(table, "gradient steps")
    for ax, (metric, title) in zip(figure.subplots(1, 2), LABELS.items(), strict=True):
        for (series, rows), look in zip(table.groupby("series", sort=False), SPARE, strict=False):
            points = rows[rows["metric"] == metric]
            x, y = (points[name].to_numpy(dtype=float) for name in (along, "mean"))
            band_curve(ax, str(series), look, x / unit, y, (y * float("nan"), y * float("nan")))
        if metric == "return":
            ax.axhline(random_return, color=MUTED, linestyle=":", linewidth=1, label="random play")
        ax.set_title(f"Pong: {title[0].lower()}{title[1:]}")
        ax.set_xlabel(label)
        ticks(ax, table[along].max() / unit)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("results", type=Path, help="results folder of the study")
    parser.add_argument("--figure", type=Path, help="draw it here, as PNG")
    arguments = parser.parse_args()
    try:
        table = read(arguments.results)
    except FileNotFoundError as error:
        print(f"penalty: {error}", file=sys.stderr)
        return 2
    random_return = load_study(STUDY).games["Pong"].random
    assert random_return is not None
    wide = table.pivot(index="gradient_steps", columns=["series", "metric"], values="mean").dropna()
    ends = wide.index[:: max(1, len(wide) // ROWS)].union(wide.index[-1:])
    print("| gradient steps | return: CQL | no penalty | largest Q: CQL | no penalty |")
    print("| --- | --- | --- | --- | --- |")
    for end in ends:
        cells = [wide.loc[end, (series, metric)] for metric in LABELS for series in TABLES]
        print(f"| {end:,} | {' | '.join(f'{value:.2f}' for value in cells)} |")
    if arguments.figure:
        with paper_style():
            save(draw(table, random_return), [arguments.figure])
    last = wide.iloc[-1]
    cql, plain = TABLES
    better = last[cql, "return"] > random_return
    bounded = wide[cql, "q_value"].abs().max() < possible()
    drifts = last[plain, "q_value"] > last[cql, "q_value"]
    print(f"\nCQL above random play ({random_return:g}): {better}; its Q-values bounded: {bounded}")
    print(f"Q-values without the penalty end higher: {drifts}")
    return 0 if better and bounded and drifts else 1


if __name__ == "__main__":
    sys.exit(main())

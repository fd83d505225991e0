"""Compare learning curves with published ones, iteration by iteration.

    python docs/evidence/compare.py results/evidence --published FOLDER [--figure docs/images/learning.png]

FOLDER holds the per-iteration returns that the Dopamine authors published, either as their JSON files
(`<game>_CNN.json`, `<game>_Impala.json`) or as one `*.csv` or `*.csv.gz` with the columns game, encoder,
agent, iteration, run, mean_return. They are not part of this project.

Prints one Markdown row per game and iteration: our seeds' returns, whether each lies inside the range of the
published runs widened by one standard deviation, and how many standard deviations our mean is from theirs.
The figure has our returns over that range, a panel per game.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from moerl.figures.style import MUTED, SPARE, paper_style, save
from moerl.statistics.published import read_published
from moerl.study.errors import UserError
from moerl.study.reference import AGENTS
from moerl.study.specs import Encoder

COMPARABLE = ("dqn",)  # their Rainbow is not the full one


def ours(results: Path, agent: str, variant: str) -> pd.DataFrame:
    """Our returns with columns game, seed, iteration, mean_return; of the longest milestone of each run."""
    found = []
    for seed in sorted((results / "runs" / agent / variant).glob("*/seed*")):
        tables = [pd.read_parquet(path) for path in seed.glob("*/returns.parquet")]
        if tables:
            longest = max(tables, key=len)
            found.append(longest.assign(game=seed.parent.name, seed=seed.name.removeprefix("seed")))
    if not found:
        raise FileNotFoundError(f"{results}: no finished run of {agent} {variant}")
    return pd.concat(found)[["game", "seed", "iteration", "mean_return"]]


def spread_of(theirs: pd.DataFrame) -> pd.DataFrame:
    """Of the published runs, per game and iteration: min, max, mean, std, count of their returns."""
    return theirs.groupby(["game", "iteration"])["mean_return"].agg(["min", "max", "mean", "std", "count"])


def draw(mine: pd.DataFrame, theirs: pd.DataFrame) -> Figure:
    """Our returns, a mark per seed, over the widened range of the published runs; a panel per game."""
    games = sorted(mine["game"].unique())
    figure = Figure((3.25 * len(games), 2.1), layout="constrained")
    spread = spread_of(theirs)
    for ax, game in zip(figure.subplots(1, len(games), squeeze=False)[0], games, strict=True):
        ours_here = mine[mine["game"] == game]
        known = spread.loc[game].loc[: ours_here["iteration"].max()]
        frames = known.index.to_numpy() + 1.0
        low, high = known["min"] - known["std"], known["max"] + known["std"]
        ax.fill_between(frames, low, high, color=MUTED, alpha=0.25, label="published, range ± 1 deviation")
        ax.plot(frames, known["mean"], color=MUTED, label="published, mean")
        look = SPARE[0]
        x = ours_here["iteration"] + 1
        ax.plot(x, ours_here["mean_return"], look.marker, color=look.colour, markersize=5, label="moerl")
        ax.set_title(game)
        ax.set_xlabel("Frames (millions)")
        ax.set_xticks(frames)
        ax.margins(x=0.1)
    figure.axes[0].set_ylabel("Mean return")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def compare(mine: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """One row per game and iteration of ours; `inside` counts the seeds within the widened range."""
    spread = spread_of(theirs)
    rows = []
    for (game, iteration), returns in mine.groupby(["game", "iteration"])["mean_return"]:
        if (game, iteration) not in spread.index:
            raise FileNotFoundError(f"no published returns of {game}, iteration {iteration}")
        low, high, mean, std, count = spread.loc[(game, iteration)]
        rows.append(
            {
                "game": game,
                "iteration": iteration,
                "seeds": len(returns),
                "mean return": round(float(returns.mean()), 2),
                "published runs": int(count),
                "inside": int(returns.between(low - std, high + std).sum()),
                "from their mean (std)": round(float((returns.mean() - mean) / std), 2),
            }
        )
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """`table` as a Markdown table."""
    lines = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    """Exit code 0: every seed inside at every iteration; 1: not; 2: files are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("results", type=Path, help="results folder of a study")
    parser.add_argument("--published", type=Path, required=True)
    parser.add_argument("--agent", choices=COMPARABLE, default="dqn")
    parser.add_argument("--variant", default="cnn-baseline")
    parser.add_argument("--figure", type=Path, help="draw it here, as PNG")
    arguments = parser.parse_args()
    try:
        mine = ours(arguments.results, arguments.agent, arguments.variant)
        encoder = Encoder(arguments.variant.split("-")[0])
        theirs = read_published(arguments.published, encoder, sorted(mine["game"].unique()))
        theirs = theirs[theirs["agent"] == AGENTS[arguments.agent]]
        table = compare(mine, theirs)
    except (FileNotFoundError, UserError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    print(markdown(table))
    if arguments.figure:
        with paper_style():
            save(draw(mine, theirs), [arguments.figure])
    return 0 if (table["inside"] == table["seeds"]).all() else 1


if __name__ == "__main__":
    sys.exit(main())

"""Compare learning curves with published ones, iteration by iteration.

    python docs/evidence/compare.py results/evidence --published FOLDER

FOLDER holds the per-iteration returns that the Dopamine authors published, either as their JSON files
(`<game>_CNN.json`, `<game>_Impala.json`) or as one `*.csv` or `*.csv.gz` with the columns game, encoder,
agent, iteration, run, mean_return. They are not part of this project.

Prints one Markdown row per game and iteration: our seeds' returns, whether each lies inside the range of the
published runs widened by one standard deviation, and how many standard deviations our mean is from theirs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

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


def compare(mine: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """One row per game and iteration of ours; `inside` counts the seeds within the widened range."""
    spread = theirs.groupby(["game", "iteration"])["mean_return"].agg(["min", "max", "mean", "std", "count"])
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
    arguments = parser.parse_args()
    try:
        mine = ours(arguments.results, arguments.agent, arguments.variant)
        encoder = Encoder(arguments.variant.split("-")[0])
        theirs = read_published(arguments.published, encoder, sorted(mine["game"].unique()))
        table = compare(mine, theirs[theirs["agent"] == AGENTS[arguments.agent]])
    except (FileNotFoundError, UserError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    print(markdown(table))
    return 0 if (table["inside"] == table["seeds"]).all() else 1


if __name__ == "__main__":
    sys.exit(main())

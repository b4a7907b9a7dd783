"""Trains a small DLRM on the sample of the Open Bandit Dataset, and exports it as a terabag bundle with PyTorch's scores beside it.

Four logs of 10,000 impressions each, in this order: bts-men, bts-women, random-men, random-women. A request is one impression: one
user, and all items of the campaign as candidates; PyTorch's score is that of the item that was shown.

    of the user     user_feature_0..3 and position: one id each; past_clicks: items that the user clicked before, weighted by the count
    of each item    item_id, item_feature_1..3: one id each; item_feature_0: a dense number, standardised over the items

past_clicks and item_id are two bags over one table. Row 0 of each table stands for unknown values and is zero.

Files in the output directory: the bundle (model.json, dense.safetensors, tables/), scores.safetensors (F32 [40000], in log order),
metrics.json, vocab.json (what a client needs to make requests of the logs). The same machine and the same versions give the same
bytes again; others may differ in the last bits of the weights, so that all files of the output belong together.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from terabag_export import ROW_FORMATS, export_bundle, write_json, write_safetensors

REPOSITORY = Path(__file__).resolve().parents[2]
LOGS = (("bts-men", "men"), ("bts-women", "women"), ("random-men", "men"), ("random-women", "women"))
CAMPAIGNS = ("men", "women")
USER_FEATURES = tuple(f"user_feature_{k}" for k in range(4))
ITEM_CATEGORIES = tuple(f"item_feature_{k}" for k in range(1, 4))
DENSE_FEATURE = "item_feature_0"
USER_BAGS = (*USER_FEATURES, "position")
ITEM_BAGS = ("item_id", *ITEM_CATEGORIES)
AFFINITY = "user-item_affinity_"
MAX_PAST_CLICKS = 8

DIM = 16
TOP = (32, 16, 1)
SEED = 2020
EPOCHS = 5
BATCH_SIZE = 256
LEARNING_RATE = 0.002
# Small tables hold all three row formats, so that each is compared with PyTorch.
FORMATS = {"user_feature_1": "fp16", "item_feature_1": "bf16"}


# Reading the logs ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Impressions:
    """All impressions, N = 40,000, in log order."""

    campaigns: list[str]  # N
    user_ids: np.ndarray  # int64 [N, 5]: rows of user_feature_0..3 and position
    past_ids: np.ndarray  # int64 [N, MAX_PAST_CLICKS]: rows of item_id, 0 beyond the past clicks
    past_weights: np.ndarray  # float32 [N, MAX_PAST_CLICKS]: how often each was clicked, 0 beyond the past clicks
    shown: np.ndarray  # int64 [N]: item_id within the campaign
    clicks: np.ndarray  # int64 [N]: 0 or 1


def read_items(data: Path, log: str) -> list[dict[str, str]]:
    with (data / f"{log}-items.csv").open(newline="", encoding="utf-8") as file:
        items = sorted(csv.DictReader(file), key=lambda item: int(item["item_id"]))
    if [int(item["item_id"]) for item in items] != list(range(len(items))):
        raise ValueError(f"item ids have to count from 0: {log}-items.csv")
    return items


def read_log(data: Path, log: str) -> list[dict[str, str]]:
    with gzip.open(data / f"{log}.csv.gz", "rt", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def factorize(values: list[str]) -> list[int]:
    """Numbers values by first appearance: item categories are hashed differently in each policy's files, but in the same order."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(value, len(numbers)) for value in values]


def build_vocabulary(data: Path, logs: list[list[dict[str, str]]]) -> dict[str, Any]:
    """Maps what the CSVs say to rows: hashes in sorted order for users, in order of item_id within a campaign for items."""
    vocabulary: dict[str, Any] = {"logs": [{"log": log, "campaign": campaign} for log, campaign in LOGS]}
    for feature in USER_FEATURES:
        values = sorted({row[feature] for rows in logs for row in rows})
        vocabulary[feature] = {value: index + 1 for index, value in enumerate(values)}
    positions = sorted({int(row["position"]) for rows in logs for row in rows})
    vocabulary["position"] = {str(position): index + 1 for index, position in enumerate(positions)}

    items = {log: read_items(data, log) for log, _ in LOGS}
    for log, campaign in LOGS:
        first = items[f"bts-{campaign}"]
        same = [item[DENSE_FEATURE] for item in items[log]] == [item[DENSE_FEATURE] for item in first] and all(
            factorize([item[feature] for item in items[log]]) == factorize([item[feature] for item in first])
            for feature in ITEM_CATEGORIES
        )
        if not same:
            raise ValueError(f"items differ between the policies' files of a campaign: {log}-items.csv")
    of_campaign = {campaign: items[f"bts-{campaign}"] for campaign in CAMPAIGNS}

    # Campaigns have items and categories of their own: those of the second one follow those of the first.
    vocabulary["item_id"], next_row = {}, 1
    for campaign in CAMPAIGNS:
        count = len(of_campaign[campaign])
        vocabulary["item_id"][campaign] = list(range(next_row, next_row + count))
        next_row += count
    for feature in ITEM_CATEGORIES:
        vocabulary[feature], next_row = {}, 1
        for campaign in CAMPAIGNS:
            numbers = factorize([item[feature] for item in of_campaign[campaign]])
            vocabulary[feature][campaign] = [next_row + number for number in numbers]
            next_row += max(numbers) + 1
    raw = {campaign: [float(item[DENSE_FEATURE]) for item in of_campaign[campaign]] for campaign in CAMPAIGNS}
    values = np.array([value for campaign in CAMPAIGNS for value in raw[campaign]])
    vocabulary[DENSE_FEATURE] = {"mean": float(values.mean()), "std": float(values.std())}
    return vocabulary


def dense_values(data: Path, vocabulary: dict[str, Any]) -> dict[str, np.ndarray]:
    """item_feature_0 of each campaign's items, standardised in float64: float32 [items]."""
    mean, std = vocabulary[DENSE_FEATURE]["mean"], vocabulary[DENSE_FEATURE]["std"]
    return {
        campaign: np.array([(float(item[DENSE_FEATURE]) - mean) / std for item in read_items(data, f"bts-{campaign}")], np.float32)
        for campaign in CAMPAIGNS
    }


def read_impressions(logs: list[list[dict[str, str]]], vocabulary: dict[str, Any]) -> Impressions:
    count = sum(map(len, logs))
    past_ids = np.zeros((count, MAX_PAST_CLICKS), np.int64)
    past_weights = np.zeros((count, MAX_PAST_CLICKS), np.float32)
    campaigns, user_ids, shown, clicks = [], [], [], []
    for (_, campaign), rows in zip(LOGS, logs, strict=True):
        rows_of_items = vocabulary["item_id"][campaign]
        for row in rows:
            past = [(item, float(row[f"{AFFINITY}{k}"])) for k, item in enumerate(rows_of_items) if float(row[f"{AFFINITY}{k}"]) > 0]
            for slot, (item, weight) in enumerate(past):
                past_ids[len(campaigns), slot], past_weights[len(campaigns), slot] = item, weight
            campaigns.append(campaign)
            user_ids.append([vocabulary[feature].get(row[feature], 0) for feature in USER_BAGS])
            shown.append(int(row["item_id"]))
            clicks.append(int(row["click"]))
    return Impressions(campaigns, np.array(user_ids), past_ids, past_weights, np.array(shown), np.array(clicks))


# The model -------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Impressions with the item that was shown."""

    user_ids: torch.Tensor  # int64 [B, 5]
    past_ids: torch.Tensor  # int64 [B, MAX_PAST_CLICKS]
    past_weights: torch.Tensor  # float32 [B, MAX_PAST_CLICKS]
    item_ids: torch.Tensor  # int64 [B, 4]: rows of item_id and item_feature_1..3
    dense: torch.Tensor  # float32 [B, 1]

    def __getitem__(self, rows: torch.Tensor) -> Batch:
        return Batch(self.user_ids[rows], self.past_ids[rows], self.past_weights[rows], self.item_ids[rows], self.dense[rows])


class Dlrm(nn.Module):
    """Bottom MLP on the dense feature, one embedding bag per sparse feature, dot interaction, top MLP: a logit per impression."""

    def __init__(self, rows: dict[str, int]) -> None:
        super().__init__()
        self.tables = nn.ParameterDict({name: nn.Parameter(torch.randn(count, DIM) * 0.1) for name, count in rows.items()})
        with torch.no_grad():
            for table in self.tables.values():
                table[0] = 0
        self.bottom = nn.Linear(1, DIM)
        num_vectors = 1 + len(USER_BAGS) + 1 + len(ITEM_BAGS)
        widths = (DIM + num_vectors * (num_vectors - 1) // 2, *TOP)
        self.top = nn.ModuleList(nn.Linear(width, out) for width, out in zip(widths, widths[1:]))

    def forward(self, batch: Batch) -> torch.Tensor:
        """float32 [B]: logits."""
        bottom = functional.relu(self.bottom(batch.dense))
        vectors = [bottom]
        vectors += [self._bag(name, batch.user_ids[:, k : k + 1]) for k, name in enumerate(USER_BAGS)]
        # Slots beyond the past clicks have weight 0, and so add nothing, and teach row 0 nothing.
        vectors.append(self._bag("item_id", batch.past_ids, batch.past_weights))
        vectors += [self._bag(name, batch.item_ids[:, k : k + 1]) for k, name in enumerate(ITEM_BAGS)]
        stacked = torch.stack(vectors, 1)
        i, j = torch.tril_indices(len(vectors), len(vectors), offset=-1)
        dots = torch.bmm(stacked, stacked.transpose(1, 2))[:, i, j]
        value = torch.cat([bottom, dots], 1)
        for layer in self.top[:-1]:
            value = functional.relu(layer(value))
        return self.top[-1](value).squeeze(1)

    def _bag(self, table: str, ids: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Sums the rows of ids [B, L]: float32 [B, DIM]."""
        return functional.embedding_bag(ids, self.tables[table], mode="sum", per_sample_weights=weights)


def bundle_spec(model: Dlrm) -> dict[str, Any]:
    """What terabag_export.export_bundle needs beside the state dict."""
    tables = [{"name": name, "tensor": f"tables.{name}", "format": FORMATS.get(name, "fp32")} for name in model.tables]
    bags = [{"type": "embedding_bag", "name": name, "table": name} for name in (*USER_BAGS, *ITEM_BAGS)]
    bags.insert(len(USER_BAGS), {"type": "embedding_bag", "name": "past_clicks", "table": "item_id", "weighted": True})
    bottom = {"name": "bottom", "input": DENSE_FEATURE, "weight": "bottom.weight", "bias": "bottom.bias", "activation": "relu"}
    layers = [*bags, {"type": "fc", **bottom}]
    layers.append({"type": "dot_interaction", "name": "interaction", "inputs": ["bottom", *(bag["name"] for bag in bags)]})
    for k in range(len(TOP)):
        activation = "sigmoid" if k == len(TOP) - 1 else "relu"
        weights = {"weight": f"top.{k}.weight", "bias": f"top.{k}.bias"}
        layers.append({"type": "fc", "name": f"top_{k}", "input": layers[-1]["name"], **weights, "activation": activation})
    return {
        "terabag": 1,
        "name": "open-bandit",
        "version": "1",
        "dense": [{"name": DENSE_FEATURE, "dim": 1}],
        "tables": tables,
        "nets": [{"name": "dlrm", "layers": layers}],
        "output": layers[-1]["name"],
    }


def make_batch(impressions: Impressions, vocabulary: dict[str, Any], dense: dict[str, np.ndarray]) -> Batch:
    shown = list(zip(impressions.campaigns, impressions.shown.tolist(), strict=True))
    item_ids = [[vocabulary[feature][campaign][item] for feature in ITEM_BAGS] for campaign, item in shown]
    return Batch(
        torch.from_numpy(impressions.user_ids),
        torch.from_numpy(impressions.past_ids),
        torch.from_numpy(impressions.past_weights),
        torch.tensor(item_ids),
        torch.from_numpy(np.array([[dense[campaign][item]] for campaign, item in shown], np.float32)),
    )


def train(model: Dlrm, batch: Batch, clicks: torch.Tensor) -> None:
    with torch.no_grad():
        # Starts at the mean click rate, 1 of 200: otherwise the first epoch learns just that.
        model.top[-1].bias.fill_(torch.logit(clicks.double().mean()))
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, foreach=False)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(clicks))
        total = 0.0
        for rows in order.split(BATCH_SIZE):
            optimizer.zero_grad()
            loss = functional.binary_cross_entropy_with_logits(model(batch[rows]), clicks[rows].float())
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {total / len(clicks):.6f}")


def round_to_formats(model: Dlrm) -> None:
    """Rounds tables to their row formats, so that PyTorch scores with the values that are exported."""
    with torch.no_grad():
        for name, table in model.tables.items():
            table.copy_(table.to(ROW_FORMATS[FORMATS.get(name, "fp32")]))


# What is written -------------------------------------------------------------------------------------------------------------------


def auc(scores: np.ndarray, clicks: np.ndarray) -> float:
    """Area under the ROC curve from mean ranks, so that ties count one half. scores float32 [N], clicks 0 or 1 [N]."""
    _, groups, counts = np.unique(scores.astype(np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = ((last - counts + 1 + last) / 2)[groups]
    positives = int(clicks.sum())
    negatives = len(clicks) - positives
    return float((ranks[clicks == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def metrics(scores: np.ndarray, impressions: Impressions, counts: list[int]) -> dict[str, Any]:
    """Measured on the impressions that the model was trained on: says whether scores are right, not whether the model is good."""

    def of(part: slice) -> dict[str, Any]:
        clicks = impressions.clicks[part]
        return {"impressions": len(clicks), "clicks": int(clicks.sum()), "auc": auc(scores[part], clicks)}

    ends = np.cumsum(counts).tolist()
    logs = {log: of(slice(end - count, end)) for (log, _), count, end in zip(LOGS, counts, ends, strict=True)}
    return {**of(slice(None)), "logs": logs, "torch": torch.__version__, "seed": SEED, "epochs": EPOCHS}


def requests(impressions: Impressions, vocabulary: dict[str, Any], dense: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """One request per impression, in log order: the user once, all items of the campaign as candidates."""
    of_items: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    for campaign in CAMPAIGNS:
        offsets = list(range(len(dense[campaign]) + 1))
        bags = {feature: {"indices": vocabulary[feature][campaign], "offsets": offsets} for feature in ITEM_BAGS}
        of_items[campaign] = ({DENSE_FEATURE: dense[campaign].tolist()}, bags)
    for n, campaign in enumerate(impressions.campaigns):
        values, item_bags = of_items[campaign]
        user_bags = {
            feature: {"indices": [int(impressions.user_ids[n, k])], "offsets": [0, 1]} for k, feature in enumerate(USER_BAGS)
        }
        count = int(np.count_nonzero(impressions.past_weights[n]))
        past = {
            "indices": impressions.past_ids[n, :count].tolist(),
            "offsets": [0, count],
            "weights": impressions.past_weights[n, :count].tolist(),
        }
        yield {"dense": values, "sparse": {**user_bags, "past_clicks": past, **item_bags}}


def write_requests(path: Path, lines: Iterator[dict[str, Any]], limit: int | None) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with path.open("w", encoding="utf-8") as file:
        for request in lines:
            if written == limit:
                break
            file.write(json.dumps(request, separators=(",", ":")) + "\n")
            written += 1
    return written


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Train a small DLRM on the Open Bandit sample and export it as a terabag bundle, with PyTorch's scores beside it.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  python train_open_bandit.py --data ../open-bandit --output demo-output/open-bandit
  python train_open_bandit.py --output demo-output/open-bandit --requests demo-output/requests.jsonl --limit 1000""",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=REPOSITORY.parent / "shared" / "data" / "open-bandit",
        metavar="DIR",
        help="the four logs and their items (default: ../shared/data/open-bandit beside the repository)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=REPOSITORY / "test" / "fixtures" / "open-bandit",
        metavar="DIR",
        help="bundle, scores, metrics, vocabulary (default: test/fixtures/open-bandit of the repository)",
    )
    parser.add_argument("--requests", type=Path, metavar="FILE", help="also write the impressions as JSONL requests")
    parser.add_argument("--limit", type=int, metavar="N", help="write only the first N requests")
    arguments = parser.parse_args()
    missing = [name for log, _ in LOGS for name in (f"{log}.csv.gz", f"{log}-items.csv") if not (arguments.data / name).exists()]
    if missing:
        print(f"train_open_bandit: missing in {arguments.data}: {', '.join(missing)}; set --data", file=sys.stderr)
        return 1

    # One thread and deterministic kernels: sums keep their order, so that the same machine gives the same bytes.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    logs = [read_log(arguments.data, log) for log, _ in LOGS]
    vocabulary = build_vocabulary(arguments.data, logs)
    impressions = read_impressions(logs, vocabulary)
    dense = dense_values(arguments.data, vocabulary)
    if arguments.requests is not None:
        written = write_requests(arguments.requests, requests(impressions, vocabulary, dense), arguments.limit)
        print(f"{written} requests in {arguments.requests}")

    rows = {feature: max(vocabulary[feature].values()) + 1 for feature in USER_BAGS}
    rows |= {feature: max(max(of_items) for of_items in vocabulary[feature].values()) + 1 for feature in ITEM_BAGS}
    model = Dlrm(rows)
    batch = make_batch(impressions, vocabulary, dense)
    train(model, batch, torch.from_numpy(impressions.clicks))
    round_to_formats(model)
    with torch.no_grad():
        scores = torch.sigmoid(model(batch))

    export_bundle(arguments.output, bundle_spec(model), model.state_dict())
    write_safetensors(arguments.output / "scores.safetensors", {"scores": scores})
    measured = metrics(scores.numpy(), impressions, list(map(len, logs)))
    write_json(arguments.output / "metrics.json", measured)
    write_json(arguments.output / "vocab.json", vocabulary)
    print(f"AUC {measured['auc']:.6f} over {measured['impressions']} impressions, {measured['clicks']} clicks: {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

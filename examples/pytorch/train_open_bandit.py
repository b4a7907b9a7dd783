"""Trains a small DLRM on the sample of the Open Bandit Dataset, and exports it as a terabag bundle with PyTorch's scores beside it.

Four logs of 10,000 impressions each, in this order: bts-men, bts-women, random-men, random-women. A request is one impression: one
user, and all items of the campaign as candidates; PyTorch's score is that of the item that was shown.

    of the user     user_feature_0..3 and position: one id each; past_clicks: items that the user clicked before, weighted by the count
    of each item    item_id, item_feature_1..3: one id each; item_feature_0: a dense number, standardised over the items

past_clicks and item_id are two bags over one table. Row 0 of each table stands for unknown values and is zero.

Files in the output directory: the bundle (model.json, dense.safetensors, tables/, check/), scores.safetensors (F32 [40000], in log order),
metrics.json, vocab.json (what a client needs to make requests of the logs). The same machine and the same versions give the same
bytes again; others may differ in the last bits of the weights, so that all files of the output belong together.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_bandit import (
    CAMPAIGNS,
    DENSE_FEATURE,
    ITEM_BAGS,
    LOGS,
    USER_BAGS,
    Impressions,
    build_vocabulary,
    dense_values,
    missing_files,
    read_impressions,
    read_log,
)
from torch import nn
from torch.nn import functional

from terabag_export import export
from terabag_export.files import write_json, write_safetensors
from terabag_export.tables import ROW_FORMATS

REPOSITORY = Path(__file__).resolve().parents[2]

DIM = 16
TOP = (32, 16, 1)
SEED = 2020
EPOCHS = 5
BATCH_SIZE = 256
EXAMPLE_ROWS = 32
LEARNING_RATE = 0.002
# Small tables hold all three row formats, so that each is compared with PyTorch.
FORMATS = {"user_feature_1": "fp16", "item_feature_1": "bf16"}


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
    """Bottom MLP on the dense feature, one embedding bag per sparse feature, dot interaction, top MLP: a score per impression."""

    def __init__(self, rows: dict[str, int]) -> None:
        super().__init__()
        self.tables = nn.ParameterDict({name: nn.Parameter(torch.randn(count, DIM) * 0.1) for name, count in rows.items()})
        with torch.no_grad():
            for table in self.tables.values():
                table[0] = 0
        self.bottom = nn.Linear(1, DIM)
        num_vectors = 1 + len(USER_BAGS) + 1 + len(ITEM_BAGS)
        widths = (DIM + num_vectors * (num_vectors - 1) // 2, *TOP)
        self.top = nn.ModuleList(nn.Linear(width, out) for width, out in pairwise(widths))

    def forward(self, batch: Batch) -> torch.Tensor:
        """float32 [B]: probabilities of a click."""
        return torch.sigmoid(self.logits(batch))

    def logits(self, batch: Batch) -> torch.Tensor:
        """float32 [B]."""
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


def names(model: Dlrm) -> dict[str, str]:
    """What requests call the inputs that the export names otherwise."""
    return {f"tables.{name}.table": name for name in model.tables} | {"past_ids": "past_clicks", "dense": DENSE_FEATURE}


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
            loss = functional.binary_cross_entropy_with_logits(model.logits(batch[rows]), clicks[rows].float())
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
        user_bags = {feature: {"indices": [int(impressions.user_ids[n, k])], "offsets": [0, 1]} for k, feature in enumerate(USER_BAGS)}
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
    missing = missing_files(arguments.data)
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
        scores = model(batch)

    # Of each campaign, with users who clicked before and users who did not.
    example = torch.argsort(batch.past_weights.sum(1), descending=True, stable=True)[:: len(scores) // EXAMPLE_ROWS][:EXAMPLE_ROWS]
    print(export(model, (batch[example],), arguments.output, name="open-bandit", formats=FORMATS, names=names(model)))
    write_safetensors(arguments.output / "scores.safetensors", {"scores": scores})
    measured = metrics(scores.numpy(), impressions, list(map(len, logs)))
    write_json(arguments.output / "metrics.json", measured)
    write_json(arguments.output / "vocab.json", vocabulary)
    print(f"AUC {measured['auc']:.6f} over {measured['impressions']} impressions, {measured['clicks']} clicks: {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

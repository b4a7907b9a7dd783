"""The sample of the Open Bandit Dataset as features of a recommendation model.

Four logs of 10,000 impressions each, in this order: bts-men, bts-women, random-men, random-women. An impression is one user, and all items of the
campaign as candidates, of which one was shown.

    of the user     user_feature_0..3 and position: one id each; past_clicks: items that the user clicked before, weighted by the count
    of each item    item_id, item_feature_1..3: one id each; item_feature_0: a dense number, standardised over the items

Row 0 of each feature stands for unknown values.
"""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

LOGS = (("bts-men", "men"), ("bts-women", "women"), ("random-men", "men"), ("random-women", "women"))
CAMPAIGNS = ("men", "women")
USER_FEATURES = tuple(f"user_feature_{k}" for k in range(4))
ITEM_CATEGORIES = tuple(f"item_feature_{k}" for k in range(1, 4))
DENSE_FEATURE = "item_feature_0"
USER_BAGS = (*USER_FEATURES, "position")
ITEM_BAGS = ("item_id", *ITEM_CATEGORIES)
AFFINITY = "user-item_affinity_"
MAX_PAST_CLICKS = 8


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
            factorize([item[feature] for item in items[log]]) == factorize([item[feature] for item in first]) for feature in ITEM_CATEGORIES
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


def missing_files(data: Path) -> list[str]:
    """Files of the data set that are not in the directory."""
    return [name for log, _ in LOGS for name in (f"{log}.csv.gz", f"{log}-items.csv") if not (data / name).exists()]

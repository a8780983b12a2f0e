"""The same figures computed straight from the views of a cache, box by box, with other people's code."""

from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax, rel_entr

from richsem_schemas.cache.reader import open_cache
from tests import caches

WHOLES = frozenset({"whole", "whole-jitter"})


@dataclass
class SeenBox:
    """A region of a whole or of its jitters: where it is, its class and scale, and what the labels say of it."""

    place: tuple[int, int, int]
    row: int
    scale: float
    embedding: np.ndarray | None
    log_probs: np.ndarray
    rest: float
    area: float = 0.0


def seen_boxes(out, label_set=caches.LABELS, *, scale=caches.LOGIT_SCALE, form="embedding", kinds=WHOLES):
    """All boxes of the wholes and of their noised copies; whole distributions, or -inf for what isn't kept."""
    cache = open_cache(out)
    text = cache.text_bank(label_set).features.astype(np.float64)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    for summary in cache.label_sets[label_set].shards:
        shard = cache.label_shard(label_set, summary.shard)
        rows = shard.rows()
        for row, view in zip(rows, shard.views(rows), strict=True):
            if view.view.kind not in kinds:
                continue
            for number, region in enumerate(view.view.regions):
                embedding = None if view.embeddings is None else view.embeddings[number].astype(np.float64)
                if form == "embedding":
                    unit = embedding / np.linalg.norm(embedding)
                    log_probs, rest = log_softmax(scale * text @ unit), -np.inf
                else:
                    log_probs, rest = np.full(len(text), -np.inf), view.labels.log_rest[number].astype(np.float64)
                    log_probs[view.labels.class_ids[number]] = view.labels.log_probs[number]
                place = (summary.shard, int(row["sample"]), int(region["annotation"]))
                noise = round(float(region["noise_scale"]), 6)
                left, top, right, bottom = region["box_xyxy_px"].astype(float)
                area = (right - left) * (bottom - top)
                yield SeenBox(place, int(region["category_id"]), noise, embedding, log_probs, rest, area)


def largest_views(out):
    """Each box as the window has it that shows it largest."""
    largest = {}
    for box in seen_boxes(out, kinds={"window"}):
        if box.place not in largest or box.area > largest[box.place].area:
            largest[box.place] = box
    return list(largest.values())


def top_classes(box, count):
    return np.argsort(-box.log_probs, kind="stable")[:count].tolist()


def accuracies(boxes, top_k, names, text_names, letter=None, frequencies=None):
    """Over categories and over boxes; of one letter, or of all."""
    hits = {}
    for box in boxes:
        name = names[box.row]
        if name in text_names and name != "none" and (letter is None or frequencies[name] == letter):
            is_hit = text_names.index(name) in top_classes(box, top_k)
            hits.setdefault(name, []).append(is_hit)
    if not hits:
        return None, None
    return np.mean([np.mean(each) for each in hits.values()]), np.mean(np.concatenate(list(hits.values())))


def divergence(clean, noised):
    """KL in nats; where labels are truncated, over the classes that both keep and the others as one."""
    p, q = np.exp(clean.log_probs), np.exp(noised.log_probs)
    both = (p > 0) & (q > 0)
    rests = [p[~both].sum() + np.exp(clean.rest), q[~both].sum() + np.exp(noised.rest)]
    return rel_entr([*p[both], rests[0]], [*q[both], rests[1]]).sum()

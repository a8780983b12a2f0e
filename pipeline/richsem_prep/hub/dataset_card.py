"""The card of a dataset repository, written from the manifests of what it holds."""

import re
from collections.abc import Sequence

from richsem_schemas.cache.manifest import CacheManifest, LabelManifest
from richsem_schemas.io.words import readable_bytes

_HUB_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]{1,40}")
"""How the hub spells the licences that it knows."""


def dataset_card(repo: str, cache: CacheManifest, label_sets: Sequence[LabelManifest], *, licence: str | None) -> str:
    """README.md of a repository.

    Args:
        repo: ORGANISATION/NAME.
        cache: the cache whose labels it holds.
        label_sets: all that it holds.
        licence: of the pictures; None where it holds none.
    """
    parts = [
        _front_matter(label_sets, licence),
        _about(repo, cache, licence),
        *(_label_set(item) for item in label_sets),
        _use(repo, label_sets[0]),
        _load_labels(repo, label_sets[0]),
    ]
    if licence is not None:
        parts.append(_load_pictures(repo))
    return "\n\n".join(parts) + "\n"


def _front_matter(label_sets: Sequence[LabelManifest], licence: str | None) -> str:
    lines = ["---", "pretty_name: RichSem label cache", "tags: [richsem, webdataset, clip, soft-labels]"]
    lines += ["task_categories: [object-detection]", "viewer: false"]
    if licence is not None:
        lines += _licence_lines(licence)
    lines.append("configs:")
    for item in label_sets:
        lines += [f"- config_name: {_yaml(item.name)}", f"  data_files: {_yaml(f'labels/{item.name}/*.tar')}"]
    if licence is not None:
        lines += ["- config_name: pictures", "  data_files: pictures/*.tar"]
    return "\n".join([*lines, "---"])


def _licence_lines(licence: str) -> list[str]:
    if _HUB_LICENCE.fullmatch(licence):
        return [f"license: {licence}"]
    return ["license: other", f"license_name: {_yaml(_one_line(licence))}"]


def _yaml(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _about(repo: str, cache: CacheManifest, licence: str | None) -> str:
    plan = cache.plan
    pictures = (
        f"The pictures are here as well, under this licence: {_one_line(licence)}."
        if licence is not None
        else "The pictures are not here: their licences stay with those who have them."
    )
    return f"""# {repo}

What a CLIP teacher says about regions of the pictures of `{plan.dataset}`: embeddings and soft labels, made by
`richsem-prep`, to train a detector with `richsem-train`. The labels follow from the pictures, their listing and the
teacher's weights; mind the terms of all three.

{pictures}

| pictures | |
|---|---|
| dataset | `{plan.dataset}`, vocabulary `{_one_line(plan.vocabulary.name)}` |
| samples | {cache.samples:,} of {plan.listed:,} listed; {cache.quarantined:,} could not be read |
| shards | {plan.shards:,} of {plan.samples_per_shard:,} samples, seed {plan.seed} |
| plan | `{cache.fingerprint}` |"""


def _label_set(manifest: LabelManifest) -> str:
    spec, teacher = manifest.spec, manifest.spec.teacher
    size = f", shown at {spec.region_encoder.teacher_size:,} px" if spec.region_encoder.teacher_size else ""
    kept = f"{spec.embeddings} x {teacher.embed_dim:,}" if spec.embeddings != "none" else "none"
    return f"""## Label set `{manifest.name}`

| | |
|---|---|
| teacher | `{_one_line(teacher.name)}`, weights `{teacher.weights_sha256[:16]}…`, logit scale {teacher.logit_scale:g} |
| region encoder | {spec.region_encoder.kind}, {spec.precision}{size} |
| text | {spec.text.classes:,} classes of `{_one_line(spec.text.vocabulary)}`, names {spec.text.names}, {spec.text.templates:,} templates |
| views | {manifest.views:,}: {_passes(manifest)} |
| regions | {manifest.regions:,}; embeddings {kept}; {spec.top_k:,} classes in each soft label |
| bytes | {manifest.bytes:,} ({readable_bytes(manifest.bytes)}) in {len(manifest.shards):,} tars |
| fingerprint | `{manifest.fingerprint}` |"""  # noqa: E501 - rows of a table


def _passes(manifest: LabelManifest) -> str:
    counts = [(kind, len(members)) for kind, members in _members(manifest).items()]
    return ", ".join(f"{count} pass{'es' * (count > 1)} of {kind} views" for kind, count in counts if count)


def _members(manifest: LabelManifest) -> dict[str, list[str]]:
    """Extensions of the views of a label set, by kind."""
    return {kind: [f"{kind}-{n}.npy" for n in range(count)] for kind, count in manifest.spec.views.passes.items()}


def _use(repo: str, manifest: LabelManifest) -> str:
    return f"""## Train with it

```
richsem-prep pull {repo} caches/mine --label-set {manifest.name}
```

fetches the set into a cache of the same plan (`richsem-prep shard` with the same pictures, options and seed makes it),
or into a folder of its own that the trainer reads beside your pictures. Every file is checked against its hash."""


def _load_labels(repo: str, manifest: LabelManifest) -> str:
    members = ", ".join(f'"{name}"' for names in _members(manifest).values() for name in names)
    return f"""## Look at the labels with 🤗 Datasets

```python
import io

import numpy
from datasets import Features, Value, load_dataset
from datasets.packaged_modules.webdataset.webdataset import DECODERS

DECODERS.pop("npy", None)  # a view stays bytes: Arrow has no type for NumPy's records
views = [{members}]
features = {{name: Value("binary") for name in views}} | {{name: Value("string") for name in ("__key__", "__url__")}}
labels = load_dataset(
    "webdataset",
    data_files="hf://datasets/{repo}/labels/{manifest.name}/*.tar",
    features=Features(features),
    split="train",
    streaming=True,
)
for sample in labels:
    for name in views:
        if sample[name] is not None:  # a mosaic belongs to the first of its pictures
            view = numpy.load(io.BytesIO(sample[name]), allow_pickle=False)
            print(sample["__key__"], name, view["regions"]["class_ids"], view["regions"]["log_probs"])
```"""


def _load_pictures(repo: str) -> str:
    return f"""## Look at the pictures with 🤗 Datasets

```python
from datasets import Features, Image, Value, load_dataset

extensions = ["jpg", "png", "webp", "bmp", "gif", "tif", "ppm"]
facts = {{"name": Value("string"), "category": Value("string"), "caption": Value("string")}}
features = {{name: Image() for name in extensions}} | {{name: Value("string") for name in ("__key__", "__url__")}}
pictures = load_dataset(
    "webdataset",
    data_files="hf://datasets/{repo}/pictures/*.tar",
    features=Features(features | {{"json": facts}}),
    split="train",
    streaming=True,
)
for sample in pictures:
    picture = next(sample[name] for name in extensions if sample[name] is not None)
    print(sample["__key__"], sample["json"]["name"], sample["json"]["category"], picture.size)
```"""


def _one_line(text: str) -> str:
    """Text of anybody's that can't leave its place in a table."""
    return " ".join("".join(" " if letter in "`|<>\n" else letter for letter in text).split())[:100]

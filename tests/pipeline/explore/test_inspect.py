import io
import math

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from richsem_prep.cli import app
from richsem_prep.explore.inspect import (
    ClassCount,
    inspect_label_set,
    label_entropies,
    printable_text,
    statistics_table,
)
from richsem_schemas.cache.manifest import LabelsReceipt
from richsem_schemas.cache.reader import open_cache
from richsem_schemas.cache.soft_labels import TopKSoftLabels
from richsem_schemas.errors import CorruptCacheError
from richsem_schemas.io.words import readable_bytes
from tests.caches import LABELS, SyntheticCache


@pytest.fixture(scope="module")
def statistics(finished_cache):
    return inspect_label_set(open_cache(finished_cache.layout.out), LABELS)


def labels_of(*rows):
    probs = np.array([row[:-1] for row in rows])
    with np.errstate(divide="ignore"):
        return TopKSoftLabels(
            np.tile(np.arange(probs.shape[1], dtype=np.int32), (len(rows), 1)),
            np.log(probs).astype(np.float16),
            np.log([row[-1] for row in rows]).astype(np.float32),
        )


def test_entropy_takes_the_rest_as_one_class():
    # 1/2, 1/4 and 1/4 outside: 0.5 ln 2 + 2 x 0.25 ln 4 = 1.5 ln 2.
    assert label_entropies(labels_of((0.5, 0.25, 0.25))) == pytest.approx([1.5 * math.log(2)], abs=1e-3)


def test_a_certain_label_without_rest_has_no_entropy():
    assert label_entropies(labels_of((1.0, 0.0))).tolist() == [0.0]


def test_views_and_regions_are_counted_by_kind(statistics):
    # Shards of 16, 16 and 8 or 9 pictures make 4 + 4 + 3 mosaics a pass, or 4 + 4 + 2 where the broken one is last.
    assert statistics.samples == 40
    assert statistics.views == {"crop": 40, "mosaic": 22}
    assert statistics.regions == {"crop": 40, "mosaic": 88}


def test_sizes_are_those_of_the_files(statistics, finished_cache):
    layout = finished_cache.layout
    pictures = sum(layout.pictures_tar(shard).stat().st_size for shard in range(3))
    labels = sum(layout.label_set(LABELS).tar(shard).stat().st_size for shard in range(3))
    index = sum(path.stat().st_size for path in (layout.out / "index").rglob("*.parquet"))
    assert (statistics.picture_bytes, statistics.label_bytes, statistics.index_bytes) == (pictures, labels, index)
    assert statistics.total_bytes == sum(path.stat().st_size for path in layout.out.rglob("*") if path.is_file())
    assert statistics.bytes_a_picture == pictures / 40
    assert statistics.bytes_a_region == labels / 128
    assert statistics.projected_bytes == (pictures + labels + index) / 40 * 1_000_000


def test_label_figures_are_means_over_regions(statistics, finished_cache):
    cache = open_cache(finished_cache.layout.out)
    entropies, masses, agreeing, labelled = [], [], 0, 0
    for shard in range(3):
        for item in cache.label_shard(LABELS, shard).views():
            for region in range(len(item.view.regions)):
                probs = [math.exp(value) for value in item.labels.log_probs[region].tolist()]
                rest = math.exp(item.labels.log_rest[region])
                entropies.append(-sum(p * math.log(p) for p in [*probs, rest] if p > 0))
                masses.append(sum(probs))
                category_id = int(item.view.regions["category_id"][region])
                labelled += category_id > 0
                agreeing += category_id > 0 and category_id == int(item.labels.class_ids[region, 0])
    assert statistics.mean_entropy == pytest.approx(sum(entropies) / 128)
    assert statistics.mean_captured_mass == pytest.approx(sum(masses) / 128)
    assert (statistics.labelled_regions, statistics.agreeing_regions) == (labelled, agreeing)
    assert statistics.top1_agreement == agreeing / labelled


def test_classes_are_counted_most_frequent_first(statistics, finished_cache):
    counts = [item.regions for item in statistics.class_counts]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == statistics.labelled_regions
    assert statistics.class_counts[-1] == ClassCount("f unused", 0)
    cache = open_cache(finished_cache.layout.out)
    unlabelled = sum((cache.picture_shard(shard).rows()["category_id"] == 0).sum() for shard in range(3))
    # One crop and at least two mosaic tiles for each.
    assert 128 - sum(counts) >= 3 * unlabelled


def test_quarantined_samples_are_counted_by_reason(statistics):
    assert dict(statistics.quarantined) == {
        "an archive; unpack it": 1,
        "its header looks like JPEG but is damaged": 1,
    }


def test_seconds_are_those_of_the_label_receipts(statistics, finished_cache):
    receipts = [LabelsReceipt.read(finished_cache.label_set.receipt(shard)) for shard in range(3)]
    assert statistics.seconds["write"] == pytest.approx(sum(receipt.seconds["write"] for receipt in receipts))


def test_a_set_without_views_has_no_figures_and_no_crash(pictures_root, tmp_path):
    cache = SyntheticCache(pictures_root, tmp_path / "out", crops=0, mosaics=0).make()
    statistics = inspect_label_set(open_cache(cache.layout.out), LABELS)
    assert (statistics.regions, statistics.mean_entropy, statistics.top1_agreement) == ({}, 0, None)
    assert "entropy" not in rendered(statistics)


def test_a_damaged_set_is_refused(cache):
    cache.label_set.tar(1).write_bytes(cache.label_set.tar(1).read_bytes()[:2000])
    with pytest.raises(CorruptCacheError, match=r"folder-000001\.tar: has 2000 bytes, its receipt says"):
        inspect_label_set(open_cache(cache.layout.out), LABELS)


def rendered(statistics):
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(statistics_table(statistics))
    return console.export_text()


def test_the_table_tells_what_the_cache_is(statistics):
    text = rendered(statistics)
    for expected in ("hash, weights 000000000000", "top 5 of 7 classes; embeddings of 16 x float16",
                         "40 views, 40 regions",
                     "2 passes: 22 views", "nats", "with the rest as one bucket", "c <script>alert(1)<script>",
                     "5 of 6", "an archive; unpack it"):  # fmt: skip
        assert expected in text


def test_the_command_asks_which_label_set(finished_cache):
    result = CliRunner().invoke(app, ["inspect", str(finished_cache.layout.out)])
    assert result.exit_code == 0
    assert "label set hashed" in result.stdout


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_234_567, "1.2 MB"), (2.5e15, "2.5 PB")]
)
def test_bytes_are_readable(count, text):
    assert readable_bytes(count) == text


def test_control_characters_are_shown_not_sent():
    assert printable_text("a\x1b[2J é\n\u202e") == "a\\x1b[2J é\\n\\u202e"

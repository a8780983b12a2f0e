"""What the live teacher says of a batch's own pixels is what the cache has of the same views."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from benchmarks.evidence.online_teacher import OnlineTeacher
from richsem_prep.teacher.region_encoder import make_region_encoder
from richsem_prep.teacher.teacher import load_teacher, parse_teacher
from richsem_schemas.pictures.boxes import xyxy_px_to_cxcywh_norm
from richsem_train.data.cache.alignment import align_windows
from richsem_train.data.cache.source import DETECTION, ExpectedCache, open_training_cache
from richsem_train.data.collate import Sample, collate
from richsem_train.data.extra import ExtraDataset
from richsem_train.data.showings import Showings
from richsem_train.data.transforms import channels_first
from richsem_train.data.windows import WindowDataset
from richsem_train.models.inputs import Normalise
from richsem_train.targets import Target
from tests.integration.shard_job import shard, shard_windows, use_small_views
from tests.pictures import write_pictures

TEACHER_SIZE = 160
STUDENT = Normalise((0.5, 0.4, 0.3), (0.25, 0.3, 0.2))


@pytest.fixture(scope="module", params=["demo", "vit"])
def teacher(request):
    """A teacher that pools its map, and one that sees tiles."""
    return request.param if request.param == "demo" else request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def mosaics(teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mosaics")
    with pytest.MonkeyPatch.context() as patch:
        use_small_views(patch, "folder")
        shard(write_pictures(folder / "pictures", 12), folder / "out", teacher, teacher_size=TEACHER_SIZE)
    extra = ExtraDataset(open_training_cache(folder / "out", expected=ExpectedCache()), seed=0, lanes=1)
    return collate([extra[counter] for counter in range(6)])


@pytest.fixture(scope="module")
def windows(teacher, tmp_path_factory):
    """Pictures of different sizes, and so padded."""
    out, data = shard_windows(tmp_path_factory.mktemp("windows"), teacher, teacher_size=TEACHER_SIZE)
    cache = open_training_cache(out, expected=ExpectedCache(section=DETECTION, views="windows"))
    showings = Showings(lambda _: np.arange(len(data)), epoch_length=len(data), pictures=len(data))
    dataset = WindowDataset(data, align_windows(cache, data, on_damage="stop"), showings)
    return collate([dataset[0, 0, picture] for picture in range(8)])


def online(teacher, *, teacher_size=TEACHER_SIZE):
    loaded = load_teacher(parse_teacher(teacher), device=torch.device("cpu"))
    return OnlineTeacher(loaded, STUDENT, precision="fp32", teacher_size=teacher_size)


def embeddings(batch):
    return torch.cat([normalize(target.soft_labels.embeddings, dim=-1) for target in batch.targets])


@pytest.mark.parametrize("views", ["mosaics", "windows"])
def test_online_labels_are_the_cached_ones_of_the_same_views(views, teacher, request):
    """As near as another rounding lets them: the cache's pixels are resized in integers, and its labels are float16."""
    batch = request.getfixturevalue(views)
    cached, labelled = embeddings(batch), online(teacher).labelled(batch)
    assert [len(each.soft_labels.embeddings) for each in labelled.targets] == [len(t.labels) for t in batch.targets]
    distances_RR = 1 - embeddings(labelled) @ cached.T
    assert distances_RR.diagonal().max() < 5e-5
    # Regions do differ, so that near is near.
    assert torch.equal(distances_RR.argmin(dim=1), torch.arange(len(cached)))
    assert (1 - cached @ cached.T).median() > 0.03


def test_the_teachers_size_is_what_makes_them_alike(windows, teacher):
    """Scale and padding of the batch are another view of the same boxes."""
    own = embeddings(windows)
    whole_batch = embeddings(online(teacher, teacher_size=None).labelled(windows))
    assert (1 - (own * whole_batch).sum(dim=-1)).max() > 1e-3


def test_a_picture_is_labelled_alike_alone_and_beside_larger_ones(windows, teacher):
    both = embeddings(online(teacher).labelled(windows))
    alone = [online(teacher).labelled(one_picture(windows, place)) for place in range(len(windows.targets))]
    torch.testing.assert_close(torch.cat([embeddings(each) for each in alone]), both, rtol=0, atol=1e-5)


def one_picture(batch, place):
    height, width = batch.targets[place].image_hw
    return collate([Sample(batch.pixels[place, :, :height, :width], batch.targets[place], "")])


def test_strips_are_padded_as_the_cache_pads_them_and_empty_pictures_have_no_labels(teacher):
    """A trunk has no map of a side below 32 pixels."""
    rng = np.random.default_rng(0)
    strip, empty = (rng.integers(0, 256, (*hw, 3), np.uint8) for hw in ((12, 150), (40, 40)))
    boxes = np.array([[0, 0, 150, 12], [20, 2, 90, 11]], np.float32)
    target = partial(Target, image_id=1, original_hw=(1, 1))
    batch = collate(
        [
            Sample(
                channels_first(strip),
                target(torch.from_numpy(xyxy_px_to_cxcywh_norm(boxes, (12, 150))), torch.ones(2), image_hw=(12, 150)),
                "strip",
            ),
            Sample(channels_first(empty), target(torch.empty(0, 4), torch.empty(0), image_hw=(40, 40)), "empty"),
        ]
    )
    labelled = online(teacher).labelled(batch)
    assert labelled.targets[1].soft_labels.embeddings.shape == (0, online(teacher).teacher.identity.embed_dim)
    encoder = make_region_encoder(online(teacher).teacher, kind=None, teacher_size=TEACHER_SIZE, precision="fp32")
    ((_, expected),) = encoder.encode([(0, encoder.prepare(strip, boxes))])
    assert (1 - (embeddings(labelled) * torch.from_numpy(expected)).sum(dim=-1)).max() < 1e-4

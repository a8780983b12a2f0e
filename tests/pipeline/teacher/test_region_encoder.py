import numpy as np
import open_clip
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.transforms import v2

from richsem_prep.teacher.region_encoder import make_region_encoder
from richsem_prep.teacher.teacher import load_teacher, parse_teacher
from richsem_schemas.cache.manifest import ViewGeometry
from richsem_schemas.cache.recipes import AnnotatedPicture, crop_view, mosaic_view
from richsem_schemas.cache.render import render_view
from richsem_schemas.errors import TeacherError
from richsem_schemas.pictures import resize
from richsem_schemas.pictures.resize import resize_picture
from tests.pipeline.teachers import MEAN, RESNET, STD, VIT, save_random_clip

CPU = torch.device("cpu")
needs_cykooz = pytest.mark.skipif(resize.cykooz_resizer is None, reason="this machine has no wheel of cykooz-resizer")
GEOMETRY = ViewGeometry(
    short_sides=(96, 128, 160), longest_side=267, first_short_sides=(80, 100), crop_sides=(77, 120), mosaic_tile=128
)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    return load_teacher(parse_teacher(save_random_clip(tmp_path_factory.mktemp("t") / "resnet", RESNET)), device=CPU)


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    return load_teacher(parse_teacher(save_random_clip(tmp_path_factory.mktemp("t") / "vit", VIT)), device=CPU)


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    sizes = [(90, 140), (200, 120), (64, 64), (150, 151)]
    return {i: Image.fromarray(rng.integers(0, 256, (*hw, 3), np.uint8)) for i, hw in enumerate(sizes)}


@pytest.fixture(scope="module")
def views(pictures):
    samples = [AnnotatedPicture(i, (picture.height, picture.width), i + 1) for i, picture in pictures.items()]
    rng = np.random.default_rng(1)
    mosaics = [mosaic_view(samples, 0, GEOMETRY, rng) for _ in range(3)]
    crops = [crop_view(sample, 0, GEOMETRY, rng) for sample in samples]
    return [*crops, *mosaics]


def encode(encoder, views, pictures):
    prepared = [encoder.prepare(render_view(view, pictures), view.regions["box_xyxy_px"]) for view in views]
    encoded = list(encoder.encode(enumerate(prepared)))
    assert [item for item, _ in encoded] == list(range(len(encoded)))
    return [features for _, features in encoded]


def normalised(pixels_HW3, dtype=torch.float32):
    pixels = torch.from_numpy(pixels_HW3.copy()).permute(2, 0, 1).to(dtype) / 255
    return v2.functional.normalize(pixels, MEAN, STD)[None]


def unit(features):
    return torch.nn.functional.normalize(features, dim=-1).numpy()


def test_a_full_picture_box_through_rn50_equals_encode_image(tmp_path):
    torch.manual_seed(0)
    model = open_clip.create_model("RN50-quickgelu").eval()
    torch.save(model.state_dict(), tmp_path / "rn50.pt")
    teacher = load_teacher(parse_teacher(f"RN50-quickgelu:{tmp_path / 'rn50.pt'}"), device=CPU)
    assert teacher.identity.quick_gelu
    encoder = make_region_encoder(teacher, kind="roi-align", teacher_size=None, precision="fp32")
    picture = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    prepared = encoder.prepare(picture, np.array([[0, 0, 224, 224]], np.float32))
    ((_, features),) = encoder.encode([(None, prepared)])
    with torch.inference_mode():
        expected = unit(model.encode_image(normalised(picture)))
    np.testing.assert_allclose(features, expected, atol=1e-6)


def test_roi_align_embeddings_equal_torchvisions_in_float64(resnet, views, pictures):
    encoder = make_region_encoder(resnet, kind="roi-align", teacher_size=None, precision="fp32")
    visual = open_clip.create_model(f"local-dir:{_folder(resnet)}").eval().double().visual
    for view, features in zip(views, encode(encoder, views, pictures), strict=True):
        boxes = torch.from_numpy(view.regions["box_xyxy_px"].astype(np.float64))
        with torch.inference_mode():
            image = normalised(render_view(view, pictures), torch.float64)
            hidden = visual.forward_intermediates(image, indices=[4], intermediates_only=True)["image_intermediates"][0]
            pooled = torchvision.ops.roi_align(hidden, [boxes], (2, 2), 1 / 32, sampling_ratio=0, aligned=True)
            expected = unit(visual.attnpool(pooled))
        np.testing.assert_allclose(features, expected, atol=2e-5)


_FOLDERS = {}


def _folder(teacher):
    return _FOLDERS[teacher.identity.weights_sha256]


@pytest.fixture(scope="module", autouse=True)
def _remember_folders(tmp_path_factory, resnet):
    folder = tmp_path_factory.mktemp("again") / "resnet"
    save_random_clip(folder, RESNET)
    _FOLDERS[resnet.identity.weights_sha256] = folder


@pytest.mark.parametrize("size", [128, 512])
def test_teacher_size_scales_view_and_boxes_together(resnet, views, pictures, size):
    encoder = make_region_encoder(resnet, kind="roi-align", teacher_size=size, precision="fp32")
    view = views[-1]
    (features,) = encode(encoder, [view], pictures)
    scaled = resize_picture(Image.fromarray(render_view(view, pictures)), (size, size))
    full = make_region_encoder(resnet, kind="roi-align", teacher_size=None, precision="fp32")
    ((_, expected),) = full.encode([(None, full.prepare(scaled, view.regions["box_xyxy_px"] * (size / 256)))])
    np.testing.assert_allclose(features, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("kernel", "bound"),
    [("Pillow's", 2e-5), pytest.param("cykooz-resizer's", 1e-2, marks=needs_cykooz)],
)
@pytest.mark.parametrize("which", ["resnet", "vit"])
def test_crop_embeddings_equal_squashed_pixels_through_encode_image(
    which, kernel, bound, request, views, pictures, monkeypatch
):
    """Pixel for pixel by Pillow's kernel; by the other one many of noise are some grey levels away."""
    teacher = request.getfixturevalue(which)
    encoder = make_region_encoder(teacher, kind="crop", teacher_size=None, precision="fp32")
    side = teacher.identity.input_hw[0]
    rendered = [render_view(view, pictures) for view in views]
    if kernel == "Pillow's":
        monkeypatch.setattr(resize, "cykooz_resizer", None)
    prepared = [
        encoder.prepare(pixels, view.regions["box_xyxy_px"]) for view, pixels in zip(views, rendered, strict=True)
    ]
    for (view, features), pixels in zip(encoder.encode(zip(views, prepared, strict=True)), rendered, strict=True):
        canvas = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        for box, feature in zip(view.regions["box_xyxy_px"].astype(int), features, strict=True):
            part = v2.functional.to_pil_image(canvas[:, box[1] : box[3], box[0] : box[2]])
            squashed = v2.functional.resize(part, [side, side], v2.InterpolationMode.BICUBIC)
            with torch.inference_mode():
                expected = unit(teacher.model.encode_image(normalised(np.asarray(squashed))))[0]
            np.testing.assert_allclose(feature, expected, atol=bound)


@pytest.mark.parametrize("kind", ["roi-align", "crop"])
def test_batches_give_what_single_views_give(resnet, views, pictures, kind):
    encoder = make_region_encoder(resnet, kind=kind, teacher_size=None, precision="fp32")
    together = encode(encoder, views, pictures)
    alone = [encode(encoder, [view], pictures)[0] for view in views]
    assert [len(f) for f in together] == [len(view.regions) for view in views]
    for one, many in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, many, atol=1e-5)


@pytest.mark.parametrize("kind", ["roi-align", "crop"])
def test_the_same_stream_gives_the_same_bits(resnet, views, pictures, kind):
    encoder = make_region_encoder(resnet, kind=kind, teacher_size=None, precision="fp32")
    first, second = encode(encoder, views, pictures), encode(encoder, views, pictures)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("kind", ["roi-align", "crop"])
def test_embeddings_have_unit_norm(resnet, views, pictures, kind):
    encoder = make_region_encoder(resnet, kind=kind, teacher_size=None, precision="fp32")
    for features in encode(encoder, views, pictures):
        np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("kind", ["roi-align", "crop"])
def test_bfloat16_is_near_float32(resnet, views, pictures, kind):
    exact = make_region_encoder(resnet, kind=kind, teacher_size=None, precision="fp32")
    rough = make_region_encoder(resnet, kind=kind, teacher_size=None, precision="bf16")
    for a, b in zip(encode(exact, views, pictures), encode(rough, views, pictures), strict=True):
        assert ((a * b).sum(axis=1) > 0.99).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", ["roi-align", "crop"])
def test_a_gpu_gives_the_embeddings_of_the_cpu_and_the_same_bits_twice(resnet, views, pictures, kind):
    on_cpu = make_region_encoder(resnet, kind=kind, teacher_size=None, precision="fp32")
    there = load_teacher(parse_teacher(f"local-dir:{_folder(resnet)}"), device=torch.device("cuda"))
    # Many batches, so that memory is used again while copies are under way.
    many = views * 40
    for precision, atol in (("fp32", 1e-3), ("fp16", 2e-2)):
        on_gpu = make_region_encoder(there, kind=kind, teacher_size=None, precision=precision)
        first, second = encode(on_gpu, many, pictures), encode(on_gpu, many, pictures)
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
        for expected, found in zip(encode(on_cpu, views, pictures) * 40, first, strict=True):
            np.testing.assert_allclose(found, expected, atol=atol)


def test_an_empty_stream_gives_nothing(resnet):
    for kind in ("roi-align", "crop"):
        encoder = make_region_encoder(resnet, kind=kind, teacher_size=None, precision="fp32")
        assert list(encoder.encode(iter([]))) == []


def test_roi_align_of_a_vision_transformer_is_refused(vit):
    with pytest.raises(TeacherError, match="use --region-encoder crop"):
        make_region_encoder(vit, kind="roi-align", teacher_size=None, precision="fp32")


def test_the_default_encoder_suits_the_teacher(resnet, vit):
    kinds = [make_region_encoder(t, kind=None, teacher_size=None, precision="fp32").spec.kind for t in (resnet, vit)]
    assert kinds == ["roi-align", "crop"]

import numpy as np

from richsem_schemas.view_checks import _have_unit_norm, _magnitudes


def test_every_float16_has_the_magnitude_that_numpy_gives_it():
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    with np.errstate(all="ignore"):
        expected = np.abs(every.astype(np.float32))
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(_magnitudes(every)[finite], expected[finite])
    assert (_magnitudes(every)[~finite] >= 65536).all()


def test_norms_of_stored_and_of_wide_embeddings_agree():
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((200, 64))
    embeddings *= np.linspace(0.98, 1.02, 200)[:, None] / np.linalg.norm(embeddings, axis=1, keepdims=True)
    stored = embeddings.astype(np.float16)
    wide = _have_unit_norm(stored.astype(np.float32))
    np.testing.assert_array_equal(_have_unit_norm(stored), wide)
    assert 0 < wide.sum() < 200
    stored[0, 0] = np.nan
    assert not _have_unit_norm(stored)[0]

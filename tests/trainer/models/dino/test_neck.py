import pytest
import torch

from richsem_train.models.dino.neck import Neck, sine_position


def maps_and_mask():
    generator = torch.Generator().manual_seed(0)
    maps = [
        torch.randn(2, channels, 64 // stride, 96 // stride, generator=generator)
        for channels, stride in ((8, 8), (16, 16), (24, 32))
    ]
    mask_BHW = torch.zeros(2, 64, 96, dtype=torch.bool)
    mask_BHW[1, 40:] = True
    mask_BHW[1, :, 64:] = True
    return maps, mask_BHW


def test_levels_have_one_width_and_halve_beyond_the_backbone():
    maps, mask_BHW = maps_and_mask()
    levels = Neck((8, 16, 24), hidden_dim=32, levels=5)(maps, mask_BHW)
    assert [tuple(level.map.shape) for level in levels] == [
        (2, 32, 8, 12),
        (2, 32, 4, 6),
        (2, 32, 2, 3),
        (2, 32, 1, 2),
        (2, 32, 1, 1),
    ]
    for level in levels:
        assert level.padding_mask.shape == level.map.shape[:1] + level.map.shape[2:]
        assert level.padding_mask.dtype == torch.bool
        assert torch.equal(level.position, sine_position(level.padding_mask, 32))


def test_masks_mark_the_padded_cells():
    maps, mask_BHW = maps_and_mask()
    first = Neck((8, 16, 24), hidden_dim=32, levels=4)(maps, mask_BHW)[0].padding_mask
    assert not first[0].any()
    expected = torch.ones(8, 12, dtype=torch.bool)
    expected[:5, :8] = False
    assert torch.equal(first[1], expected)


def test_the_first_extra_level_comes_from_the_last_map_and_the_next_from_it():
    maps, mask_BHW = maps_and_mask()
    neck = Neck((8, 16, 24), hidden_dim=32, levels=5)
    levels = neck(maps, mask_BHW)
    torch.testing.assert_close(levels[3].map, neck[3](maps[2]))
    torch.testing.assert_close(levels[4].map, neck[4](levels[3].map))


def test_keys_are_those_of_published_checkpoints():
    keys = set(Neck((8, 16, 24), hidden_dim=32, levels=4).state_dict())
    assert keys == {f"{level}.{part}.{kind}" for level in range(4) for part in (0, 1) for kind in ("weight", "bias")}


def test_a_width_that_32_does_not_divide_has_fewer_groups():
    maps, mask_BHW = maps_and_mask()
    neck = Neck((8, 16, 24), hidden_dim=48, levels=3)
    assert neck[0][1].num_groups == 16
    assert neck(maps, mask_BHW)[0].map.shape[1] == 48


def test_fewer_levels_than_maps_are_refused():
    with pytest.raises(ValueError, match="2 levels are fewer than the backbone's 3 maps"):
        Neck((8, 16, 24), hidden_dim=32, levels=2)


def test_another_number_of_maps_is_refused():
    maps, mask_BHW = maps_and_mask()
    with pytest.raises(ValueError, match="2 maps"):
        Neck((8, 16, 24), hidden_dim=32, levels=4)(maps[:2], mask_BHW)

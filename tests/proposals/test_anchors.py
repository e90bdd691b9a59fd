import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from rcnn.errors import UserError
from rcnn.proposals import AnchorOptions, Anchors
from rcnn.proposals.anchors import inside

# py-faster-rcnn's nine anchors, base 16 centred at 7.5, corners inclusive (PITFALLS 8).
CAFFE_NINE = [
    (-84, -40, 99, 55), (-176, -88, 191, 103), (-360, -184, 375, 199),
    (-56, -56, 71, 71), (-120, -120, 135, 135), (-248, -248, 263, 263),
    (-36, -80, 51, 95), (-80, -168, 95, 183), (-168, -344, 183, 359),
]  # fmt: skip


def test_classic_rounding_gives_the_nine_anchors_of_the_authors_code():
    anchors = Anchors(AnchorOptions(rounding="caffe"), [16])([(1, 1)])[0]
    inclusive = anchors - torch.tensor([0.0, 0, 1, 1])
    assert inclusive.tolist() == [list(map(float, box)) for box in CAFFE_NINE]


def test_torchvision_rounding_equals_torchvision():
    sizes, ratios = ((32.0, 48.0), (64.0, 96.0)), (0.5, 1.0, 2.0)
    ours = Anchors(AnchorOptions(sizes, ratios, centre=0.0, rounding="torchvision"), [8, 16])([(5, 7), (3, 4)])
    theirs = AnchorGenerator(sizes, (ratios, ratios))
    images = ImageList(torch.zeros(1, 3, 40, 56), [(40, 56)])
    expected = theirs(images, [torch.zeros(1, 1, 5, 7), torch.zeros(1, 1, 3, 4)])[0]
    # 3 × 4 places of 40 × 56 pixels step by 13 and 14 there; ours step by the stride that is given.
    assert torch.equal(ours[0], expected[: 5 * 7 * 6])


def test_ratios_are_height_over_width_and_areas_are_kept():
    anchors = Anchors(AnchorOptions(((100.0,),), (0.5, 2.0)), [16])([(1, 1)])[0]
    width, height = (anchors[:, 2:] - anchors[:, :2]).unbind(-1)
    assert (height / width).tolist() == pytest.approx([0.5, 2.0])
    assert (width * height).tolist() == pytest.approx([10000.0, 10000.0], rel=1e-5)


def test_places_go_row_by_row_with_the_anchors_of_a_place_side_by_side():
    anchors = Anchors(AnchorOptions(((8.0, 16.0),), (1.0,)), [4])([(2, 3)])[0]
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    expected = [(x * 4 + 2, y * 4 + 2) for y in range(2) for x in range(3) for _ in range(2)]
    assert centres.tolist() == [list(map(float, c)) for c in expected]


def test_a_1000_by_600_image_has_about_20000_anchors_of_which_about_6000_lie_inside():
    # Ren et al. 2015, section 3.1.1, at stride 16.
    anchors = Anchors(AnchorOptions(rounding="caffe"), [16])([(38, 63)])[0]
    assert 20000 <= len(anchors) <= 22000
    kept = int(inside(anchors, torch.tensor([[600.0, 1000.0]])).sum())
    assert 6000 <= kept <= 9000


def test_cells_of_the_padding_have_no_anchors():
    anchors = Anchors(AnchorOptions(((8.0,),), (1.0,)), [16])
    eligible = anchors.eligible([(2, 4)], torch.tensor([[32.0, 64.0], [16.0, 33.0], [17.0, 32.0]]))
    assert eligible.reshape(3, 2, 4).tolist() == [
        [[True] * 4, [True] * 4],
        [[True, True, True, False], [False] * 4],
        [[True, True, False, False], [True, True, False, False]],
    ]


def test_levels_and_sizes_must_agree():
    with pytest.raises(
        UserError, match=r"model\.anchors\.sizes: expected one list for each of the 3 feature maps.*got 2"
    ):
        Anchors(AnchorOptions(((8.0,), (16.0,))), [4, 8, 16])


def test_every_map_needs_as_many_sizes():
    with pytest.raises(UserError, match=r"model\.anchors\.sizes: expected as many sizes for each .* got 1, 2"):
        Anchors(AnchorOptions(((8.0,), (16.0, 24.0))), [4, 8])


def test_anchors_go_along_to_the_models_device_and_are_saved_with_no_weights():
    anchors = Anchors(AnchorOptions(((8.0,), (16.0,))), [4, 8])
    assert not anchors.state_dict()
    made = anchors.to("meta")([(2, 3), (1, 2)])
    assert [level.device.type for level in made] == ["meta", "meta"]


def test_no_step_makes_a_tensor_of_numbers_that_a_gpu_would_wait_for():
    copied = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            if operator.overloadpacket.__name__ in ("lift_fresh", "_local_scalar_dense"):
                copied.append(operator)
            return operator(*args, **(kwargs or {}))

    anchors = Anchors(AnchorOptions(((8.0,), (16.0,))), [4, 8])
    with Watch():
        anchors([(2, 3), (1, 2)])
        anchors.eligible([(2, 3), (1, 2)], torch.full((1, 2), 12.0))
    assert not copied


@pytest.mark.parametrize("border", [0.0, 5.0])
@pytest.mark.parametrize("centre", [0.0, 0.5])
def test_an_image_fits_an_anchor_where_laying_them_all_out_finds_one_inside(centre, border):
    anchors = Anchors(AnchorOptions(((24.0,), (40.0,)), (0.5, 1.0), centre), [8, 16])
    sizes = torch.tensor([(h, w) for h in range(6, 60, 4) for w in range(6, 60, 4)], dtype=torch.float32)
    found = anchors.fit(sizes, border)
    for size, fits in zip(sizes, found.tolist(), strict=True):
        shapes = [(math.ceil(size[0] / s), math.ceil(size[1] / s)) for s in (8, 16)]
        laid_out = torch.cat(anchors(shapes))
        assert bool(inside(laid_out, size[None], border).any()) == fits, size
    assert 0 < found.sum() < len(found)


@pytest.mark.parametrize("padded", [(40, 56), (800, 1216)])
def test_torchvisions_step_divides_the_padded_image_and_its_padding_has_anchors(padded):
    sizes, ratios, strides = ((32.0,), (64.0,), (128.0,)), (0.5, 1.0, 2.0), (8, 16, 32)
    maps = [(-(-padded[0] // stride), -(-padded[1] // stride)) for stride in strides]
    options = AnchorOptions(sizes, ratios, centre=0.0, step="torchvision", padding=True, rounding="torchvision")
    anchors = Anchors(options, strides)
    images = ImageList(torch.zeros(1, 3, *padded), [padded])
    expected = AnchorGenerator(sizes, (ratios,) * 3)(images, [torch.zeros(1, 1, *shape) for shape in maps])[0]
    assert torch.equal(torch.cat(anchors(maps)), expected)
    assert bool(anchors.eligible(maps, torch.tensor([[9.0, 9.0]])).all())

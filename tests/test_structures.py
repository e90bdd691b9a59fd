import torch
from hypothesis import given
from hypothesis import strategies as st

from rcnn.structures import Batch, GroundTruth, ImageBatch, Proposals, padded


@given(st.integers(1, 5000))
def test_a_padded_side_is_the_next_multiple_of_32_of_that_side_alone(size):
    assert padded(size) % 32 == 0
    assert size <= padded(size) < size + 32


def test_inside_marks_true_pixels_only():
    batch = ImageBatch(torch.zeros(2, 3, 32, 64, dtype=torch.uint8), torch.tensor([[32.0, 40.0], [7.0, 64.0]]))
    expected = torch.zeros(2, 1, 32, 64, dtype=torch.bool)
    expected[0, :, :, :40] = True
    expected[1, :, :7, :] = True
    assert torch.equal(batch.inside, expected)


def test_padded_and_ignored_objects_are_not_real():
    truth = GroundTruth(torch.zeros(1, 3, 4), torch.tensor([[2, 0, -1]]), torch.tensor([[False, True, False]]))
    assert truth.real.tolist() == [[True, False, False]]
    assert truth.to("cpu").real.tolist() == [[True, False, False]]


def test_a_batch_moves_with_its_proposals_or_without():
    images = ImageBatch(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.tensor([[32.0, 32.0]]))
    truth = GroundTruth(torch.zeros(1, 1, 4), torch.tensor([[-1]]), torch.zeros(1, 1, dtype=torch.bool))
    proposals = Proposals(torch.zeros(1, 64, 4), torch.zeros(1, 64), torch.zeros(1, 64, dtype=torch.bool))
    moved = Batch(images, truth, ("x",), proposals).to("meta")
    assert moved.names == ("x",)
    tensors = (moved.images.pixels, moved.truth.boxes, moved.proposals.boxes)
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert Batch(images, truth).to("meta").proposals is None

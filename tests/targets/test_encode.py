import torch

from rcnn.boxes import BoxCoder
from rcnn.structures import GroundTruth
from rcnn.targets import encode


def test_positives_are_coded_and_the_rest_are_zero_whatever_stands_there():
    truth = GroundTruth(
        torch.tensor([[[0.0, 0, 10, 20], [0, 0, 0, 0]]]), torch.tensor([[1, -1]]), torch.zeros(1, 2).bool()
    )
    references = torch.tensor([[[1.0, 1, 9, 19], [5.0, 5, 5, 5], [0, 0, 0, 0]]])
    matched = torch.tensor([[0, 1, 1]])
    positive = torch.tensor([[True, False, False]])
    goals = encode(references, matched, positive, truth, BoxCoder())
    assert torch.equal(goals[0, 0], BoxCoder().encode(truth.boxes[0, 0], references[0, 0]))
    assert goals[0, 1:].eq(0).all()


def test_no_objects_at_all_is_fine():
    truth = GroundTruth(torch.zeros(2, 0, 4), torch.zeros(2, 0).long(), torch.zeros(2, 0).bool())
    goals = encode(torch.rand(2, 5, 4), torch.zeros(2, 5).long(), torch.zeros(2, 5).bool(), truth, BoxCoder())
    assert goals.shape == (2, 5, 4)
    assert goals.eq(0).all()

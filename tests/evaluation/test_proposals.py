from __future__ import annotations

import numpy as np
import pytest

from rcnn.evaluation import proposal_recall


def slow(truths, proposals, count, threshold):
    """Recall and MABO, object by object."""
    hits, best_by_class = [], {}
    for t, boxes in zip(truths, proposals, strict=True):
        for box, label, ignore in zip(np.float64(t.boxes), t.labels, t.difficult | t.crowd, strict=True):
            if ignore:
                continue
            best = 0.0
            for p in boxes[:count]:
                w = min(box[2], p[2]) - max(box[0], p[0])
                h = min(box[3], p[3]) - max(box[1], p[1])
                shared = max(w, 0) * max(h, 0)
                union = (box[2] - box[0]) * (box[3] - box[1]) + (p[2] - p[0]) * (p[3] - p[1]) - shared
                best = max(best, shared / union)
            hits.append(best >= threshold)
            best_by_class.setdefault(label, []).append(best)
    return np.mean(hits), np.mean([np.mean(b) for b in best_by_class.values()])


def test_recall_and_mabo_are_the_slow_ones(random_data):
    truths, predictions, _ = random_data(seed=4)
    proposals = [p.boxes for p in predictions]
    proposals[2] = np.zeros((0, 4))
    result = proposal_recall(truths, proposals, (1, 4, 100), (0.3, 0.7))
    for i, count in enumerate((1, 4, 100)):
        for j, threshold in enumerate((0.3, 0.7)):
            recall, mabo = slow(truths, proposals, count, threshold)
            assert result.recall[i, j] == pytest.approx(recall)
            assert result.mabo[i] == pytest.approx(mabo)
    assert 0 < result.recall[0, 0] < result.recall[2, 0] < 1
    assert result.average[0] == pytest.approx(np.mean([min(len(p), 1) for p in proposals]))


def test_without_objects_there_is_no_recall(truth):
    result = proposal_recall([truth()], [np.zeros((3, 4))], (10,), (0.5,))
    assert np.isnan(result.recall).all()
    assert np.isnan(result.mabo).all()

"""The layers of the fast form alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from rcnn.inference.layers import packed_linear, works


@pytest.mark.skipif(not works(torch.float32), reason="torch has not oneDNN's operators here")
def test_threads_that_pack_a_weight_at_once_all_get_it():
    for seed in range(20):
        weight = torch.randn(48, 32, generator=torch.Generator().manual_seed(seed))
        packed = packed_linear(weight.clone())
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(packed, [1 + 7 * n for n in range(40)]))
        for one in found:
            assert torch.equal(one.to_dense(), weight)

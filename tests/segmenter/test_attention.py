"""Attention as written out equals torch's kernel, in both types, with a mask and without, gradients too."""

import pytest
import torch
import torch.nn.functional as F

from l2l_ray.segmenter.attention import attend


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_written_out_attention_equals_the_fused_kernel(masked, dtype, close):
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(2, 4, 7, 8, generator=generator).to(dtype).requires_grad_() for _ in range(3)]
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])[:, None, None, :] if masked else None
    expected = F.scaled_dot_product_attention(*tensors, attn_mask=mask)
    found = attend(*tensors, mask)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=close, atol=close)
    gradients = [torch.autograd.grad(result.float().square().sum(), tensors) for result in (found, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=4 * close, atol=4 * close)


def test_what_is_masked_has_no_weight_at_all():
    key = torch.randn(1, 1, 3, 4)
    value = torch.tensor([1.0, 2.0, float(2**30)]).view(1, 1, 3, 1).expand(-1, -1, -1, 4)
    mask = torch.tensor([True, True, False]).view(1, 1, 1, 3)
    assert attend(torch.randn(1, 1, 5, 4), key, value, mask).max() <= 2.001

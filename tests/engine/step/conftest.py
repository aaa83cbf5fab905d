import pytest
import torch


@pytest.fixture(scope="module")
def repeatable_convolutions():
    """cuDNN's deterministic algorithms, and no choice by timing outside the step."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    yield
    cudnn.deterministic, cudnn.benchmark = before

import pytest
import torch


@pytest.fixture
def poisoned_memory():
    """New tensors hold NaN, or the largest integer, until something is written: a pixel left out cannot pass as 0."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

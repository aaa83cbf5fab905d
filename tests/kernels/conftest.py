import pytest
import torch

from tests.conftest import device_or_skip
from tests.kernels.inputs import needs


@pytest.fixture(params=["reference", "native", pytest.param("triton", marks=pytest.mark.gpu)])
def backend(request):
    """Each in turn; Triton's on a GPU. Its interpreter and its compiler have tests of their own, which need none."""
    if request.param == "triton":
        device_or_skip("cuda")
    needs(request.param)
    return request.param


@pytest.fixture
def device(backend):
    """Where the backend works."""
    return torch.device("cuda" if backend == "triton" else "cpu")


@pytest.fixture
def poisoned_memory():
    """New tensors hold NaN, or the largest integer, until something is written: a pixel left out cannot pass as 0."""
    torch.use_deterministic_algorithms(True, warn_only=True)
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

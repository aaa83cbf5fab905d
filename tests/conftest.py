"""What every test may count on, however the tests were started."""

import signal

import pytest

# a shell ignores Ctrl+C for what it puts into the background, and children inherit that: tests of signals need Python's own
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """Where a test's numbers must come out: here, and on a GPU (`pytest -m gpu`)."""
    return device_or_skip(request.param)


def device_or_skip(name):
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip(f"needs a CUDA device; torch {torch.__version__} sees none")
    return torch.device(name, torch.cuda.current_device()) if name == "cuda" else torch.device(name)

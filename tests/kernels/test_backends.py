import importlib
import warnings

import pytest
import torch

import dat_kernels
from dat_kernels import amplitude_mix, available_backends, backends
from tests.kernels.inputs import needs

OPERATIONS = {
    "amplitude_mix": ("forward", "backward_amplitude"),
    "pgd_step": ("forward", "start"),
    "augment": ("forward",),
}


@pytest.fixture
def forget_warnings():
    backends._warn_once.cache_clear()
    yield
    backends._warn_once.cache_clear()


@pytest.fixture
def without_native(monkeypatch):
    """As on a machine where the module was not built."""
    why_missing = backends._why_missing
    monkeypatch.setattr(backends, "_why_missing", lambda name: "not built" if name == "native" else why_missing(name))


def mix_arguments(dtype=torch.float32):
    return (
        torch.full((2, 1, 16, 16), 0.5, dtype=dtype),
        torch.ones(2, 1, 16, 16, dtype=dtype),
        torch.zeros(2, dtype=dtype),
    )


def test_reference_is_always_available_and_last():
    assert available_backends()[-1] == "reference"
    assert set(available_backends()) <= set(backends.BACKENDS)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_backend_of_an_operation_has_the_same_functions(operation):
    for backend in available_backends():
        file = "reference" if backend == "reference" else f"{backend}_backend"
        module = importlib.import_module(f"dat_kernels.{operation}.{file}")
        for function in ("serves", *OPERATIONS[operation]):
            assert callable(getattr(module, function)), f"{module.__name__}.{function}"


def test_the_fastest_backend_is_chosen_without_a_warning():
    needs("native")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backends.choose("amplitude_mix", None, *mix_arguments()).__name__.endswith("native_backend")


def test_automatic_choice_falls_back_with_one_warning(forget_warnings):
    needs("native")
    arguments = mix_arguments(torch.float64)
    with pytest.warns(UserWarning, match=r"amplitude_mix runs on the slow reference backend: .*float64") as caught:
        amplitude_mix(*arguments)
        amplitude_mix(*arguments)
    assert len(caught) == 1


def test_automatic_choice_falls_back_where_the_module_was_not_built(without_native, forget_warnings):
    assert "native" not in available_backends()
    with pytest.warns(UserWarning, match="'native' cannot serve it: not built"):
        result = amplitude_mix(*mix_arguments())
    assert torch.equal(result, torch.full_like(result, 0.5))


def test_named_backend_that_cannot_serve_raises_and_says_why(without_native):
    with pytest.raises(ValueError, match="backend 'native' cannot serve amplitude_mix: not built; use another of"):
        amplitude_mix(*mix_arguments(), backend="native")


def test_named_backend_refuses_a_dtype_that_it_does_not_compute_in():
    needs("native")
    with pytest.raises(ValueError, match=r"cannot serve amplitude_mix: .*torch.float64; use another"):
        amplitude_mix(*mix_arguments(torch.float64), backend="native")


def test_triton_asked_for_by_name_raises_on_a_machine_without_it():
    if "triton" in available_backends():
        pytest.skip("triton is available here, so asking for it must not raise")
    with pytest.raises(ValueError, match="backend 'triton' cannot serve amplitude_mix: "):
        amplitude_mix(*mix_arguments(), backend="triton")


def test_importing_the_package_does_not_import_triton_kernels():
    import subprocess
    import sys

    code = (
        "import sys, dat_kernels; print([name for name in sys.modules if 'dat_kernels' in name and 'triton' in name])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_unknown_instruction_set_is_refused():
    needs("native")
    from dat_kernels import _native

    with pytest.raises(ValueError, match="instruction set 'avx1024'"):
        _native.use_instruction_set("avx1024")
    assert _native.current_instruction_set() in _native.instruction_sets()


def test_public_names():
    assert set(dat_kernels.__all__) == {"amplitude_mix", "augment", "available_backends", "pgd_start", "pgd_step"}

import math

import pytest
import torch

from dat_kernels import amplitude_mix
from tests.kernels.inputs import generator, needs
from tests.kernels.mixes import arguments, result_and_gradient, views


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("size", [16, 32, 10])
def test_layouts_agree_and_are_kept(backend, size, poisoned_memory):
    needs(backend)
    images, amplitude, lam = arguments((4, 3, size, size))
    grad = torch.randn(images.shape, generator=generator(2))
    expected = result_and_gradient(images, amplitude, lam, grad, backend, **views(4))
    last = torch.channels_last
    layouts = {
        "channels_last": [t.to(memory_format=last) for t in (images, amplitude, grad)],
        "mixed": [images.to(memory_format=last), amplitude, grad],
        "strided": [torch.stack([t, t], dim=-1)[..., 0] for t in (images, amplitude, grad)],
        "transposed": [t.transpose(-1, -2).contiguous().transpose(-1, -2) for t in (images, amplitude, grad)],
    }
    for name, (x, a, g) in layouts.items():
        mixed, gradient = result_and_gradient(x, a, lam, g, backend, **views(4))
        torch.testing.assert_close(mixed, expected[0], rtol=0, atol=1e-6, msg=name)
        torch.testing.assert_close(gradient, expected[1], rtol=1e-4, atol=1e-6, msg=name)
        assert mixed.is_contiguous(memory_format=last) == (name in ("channels_last", "mixed")), name


def test_native_does_not_depend_on_the_number_of_threads():
    needs("native")
    images, amplitude, lam = arguments((16, 3, 32, 32))
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(amplitude_mix(images, amplitude, lam, backend="native"))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("size", [16, 12])
def test_not_a_number_spoils_its_own_plane_only(backend, size):
    needs(backend)
    images, amplitude, lam = arguments((2, 2, size, size))
    clean = amplitude_mix(images, amplitude, lam, backend=backend)
    images[0, 1, 3, 3] = math.nan
    result = amplitude_mix(images, amplitude, lam, backend=backend)
    assert result[0, 1].isnan().all()
    assert torch.equal(result[0, 0], clean[0, 0]) and torch.equal(result[1], clean[1])


@pytest.mark.parametrize("size", [16, 7])
def test_compiled_without_graph_breaks_equals_eager(size):
    images, amplitude, lam = arguments((3, 2, size, size))
    extra = views(3)

    def loss(amplitude):
        return (amplitude_mix(images, amplitude, lam, **extra) ** 2).sum()

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    gradients = []
    for function in (loss, compiled):
        leaf = amplitude.clone().requires_grad_()
        function(leaf).backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


def test_autocast_leaves_the_image_in_its_own_dtype():
    images, amplitude, lam = arguments((2, 3, 16, 16))
    expected = amplitude_mix(images, amplitude.bfloat16(), lam)
    with torch.autocast("cpu", torch.bfloat16):
        leaf = amplitude.bfloat16().requires_grad_()
        result = amplitude_mix(images, leaf, lam)
        result.sum().backward()
    assert result.dtype == torch.float32 and leaf.grad.dtype == torch.bfloat16
    assert torch.equal(result, expected)


@pytest.mark.parametrize("backend", [None, "reference", "native"])
def test_batch_of_zero_images(backend):
    if backend is not None:
        needs(backend)
    images, amplitude, lam = torch.empty(0, 3, 16, 16), torch.empty(0, 3, 16, 16, requires_grad=True), torch.empty(0)
    mixed = amplitude_mix(images, amplitude, lam, backend=backend)
    mixed.sum().backward()
    assert mixed.shape == amplitude.grad.shape == (0, 3, 16, 16)


def test_vmap_joins_the_batch():
    images, amplitude, _ = arguments((6, 2, 16, 16))
    lam = torch.rand(6, generator=generator(1))
    expected = amplitude_mix(images, amplitude, lam)
    mapped = torch.func.vmap(amplitude_mix, in_dims=(0, 0, 0))(
        images.view(2, 3, 2, 16, 16), amplitude.view(2, 3, 2, 16, 16), lam.view(2, 3)
    )
    assert torch.equal(mapped.flatten(0, 1), expected)


def test_registration_is_consistent():
    images, amplitude, lam = arguments((2, 2, 6, 6))
    extra = views(2)
    inputs = (images, amplitude.requires_grad_(), lam, extra["crop_offsets"], extra["flip"], "reference")
    torch.library.opcheck(torch.ops.dat_kernels.amplitude_mix.default, inputs)


WRONG = {
    "images not a tensor": ({"images": [1.0]}, TypeError, "images is a list"),
    "integer images": ({"images": torch.zeros(2, 3, 16, 16, dtype=torch.uint8)}, TypeError, r"torch.uint8.*/ 255"),
    "three dimensions": ({"images": torch.zeros(3, 16, 16)}, ValueError, r"images has shape \(3, 16, 16\)"),
    "no pixels": ({"images": torch.zeros(2, 3, 0, 16)}, ValueError, "at least 1"),
    "amplitude of another shape": (
        {"amplitude": torch.zeros(2, 3, 16, 9)},
        ValueError,
        r"amplitude has shape \(2, 3, 16, 9\) and images \(2, 3, 16, 16\)",
    ),
    "complex amplitude": ({"amplitude": torch.zeros(2, 3, 16, 16, dtype=torch.complex64)}, TypeError, "complex64"),
    "amplitude elsewhere": ({"amplitude": torch.zeros(2, 3, 16, 16, device="meta")}, ValueError, "meta.*one device"),
    "lam a float": ({"lam": 0.5}, TypeError, "lam is a float"),
    "lam of another length": ({"lam": torch.zeros(3)}, ValueError, r"lam has shape \(3,\); it must be \(2,\)"),
    "lam above one": ({"lam": torch.tensor([0.5, 1.5])}, ValueError, "lam ranges from 0.5 to 1.5"),
    "lam not a number": ({"lam": torch.tensor([0.5, math.nan])}, ValueError, r"lam .* \[0, 1\]"),
    "float offsets": ({"crop_offsets": torch.zeros(2, 2)}, TypeError, "crop_offsets has dtype torch.float32"),
    "offsets of another shape": (
        {"crop_offsets": torch.zeros(3, 2, dtype=torch.int64)},
        ValueError,
        r"crop_offsets has shape \(3, 2\); it must be \(2, 2\)",
    ),
    "integer flip": ({"flip": torch.zeros(2, dtype=torch.int64)}, TypeError, "flip has dtype torch.int64"),
    "flip of another length": ({"flip": torch.zeros(1, dtype=torch.bool)}, ValueError, r"flip has shape \(1,\)"),
    "unknown backend": ({"backend": "cuda"}, ValueError, "backend 'cuda' is unknown"),
}


@pytest.mark.parametrize(("changes", "error", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_input_is_named(changes, error, message):
    images, amplitude, lam = arguments((2, 3, 16, 16))
    correct = {"images": images, "amplitude": amplitude, "lam": lam}
    with pytest.raises(error, match=message):
        amplitude_mix(**(correct | changes))

import pytest
import torch

from dat_kernels import augment, backends
from tests.kernels.inputs import generator, needs

BACKENDS = ("reference", "native")
LAYOUTS = (torch.contiguous_format, torch.channels_last)


def dataset(count=12, channels=3, height=9, width=7):
    return torch.randint(0, 256, (count, channels, height, width), generator=generator(0), dtype=torch.uint8)


def draw(batch, count=12, reach=3):
    random = generator(1)
    return (
        torch.randint(0, count, (batch,), generator=random),
        torch.randint(-reach, reach + 1, (batch, 2), generator=random),
        torch.rand(batch, generator=random) < 0.5,
    )


@pytest.mark.parametrize("backend", ["native", pytest.param("triton", marks=pytest.mark.gpu)], indirect=True)
def test_the_fastest_backend_serves_by_default(backend, device):
    given = dataset().to(device), draw(3)[0].to(device)
    assert backends.choose("augment", None, *given).__name__ == f"dat_kernels.augment.{backend}_backend"


def padded_crop(image, dy, dx, flip):
    """Crop and flip by padding, slicing and reversing: another way to the same picture."""
    _, height, width = image.shape
    pad = max(abs(dy), abs(dx))
    canvas = torch.nn.functional.pad(image, (pad,) * 4)
    crop = canvas[:, pad + dy : pad + dy + height, pad + dx : pad + dx + width]
    return crop.flip(-1) if flip else crop


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stored", LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_gathers_crops_flips_and_divides(backend, device, dtype, stored, layout, channels, poisoned_memory):
    images = dataset(channels=channels).to(memory_format=stored)
    indices, offsets, flip = draw(6)
    given = {"crop_offsets": offsets.to(device), "flip": flip.to(device), "dtype": dtype, "memory_format": layout}
    result = augment(images.to(device), indices.to(device), **given, backend=backend)
    # flipping first and cropping then, as the formula reads: the crop's column offset counts in the unflipped image
    expected = torch.stack(
        [
            padded_crop(images[i].float().div(255), dy, dx, f).to(dtype)
            for i, (dy, dx), f in zip(indices.tolist(), offsets.tolist(), flip.tolist(), strict=True)
        ]
    )
    assert torch.equal(result.cpu(), expected)  # computed on the CPU: torch divides by a number inexactly on a GPU
    assert result.is_contiguous(memory_format=layout)


@pytest.mark.parametrize(("use_crop", "use_flip"), [(False, False), (True, False), (False, True)])
def test_crop_and_flip_are_optional(backend, device, use_crop, use_flip):
    images, (indices, offsets, flip) = dataset(), draw(5)
    nothing = {"crop_offsets": torch.zeros_like(offsets), "flip": torch.zeros_like(flip)}
    given = {"crop_offsets": offsets if use_crop else None, "flip": flip if use_flip else None}
    filled = {name: nothing[name] if value is None else value for name, value in given.items()}
    moved = {name: None if value is None else value.to(device) for name, value in given.items()}
    result = augment(images.to(device), indices.to(device), backend=backend, **moved)
    assert torch.equal(result.cpu(), augment(images, indices, backend="reference", **filled))


def test_every_byte_is_divided_exactly(backend, device):
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    result = augment(every.to(device), torch.tensor([0], device=device), backend=backend)
    assert torch.equal(result.cpu().flatten(), (torch.arange(256, dtype=torch.float64) / 255).float())


@pytest.mark.parametrize("offset", [(9, 0), (0, 7), (-9, -7), (1000, -1000), (2**40, 0)])
def test_an_offset_past_the_image_gives_black(backend, device, offset):
    given = torch.tensor([0], device=device), torch.tensor([offset], device=device)
    result = augment((dataset() | 1).to(device), given[0], crop_offsets=given[1], backend=backend)
    assert torch.equal(result, torch.zeros_like(result))


def test_sizes_up_to_65_agree_between_backends(one_thread, poisoned_memory):
    needs("native")
    for height in range(1, 66):
        images, (indices, offsets, flip) = dataset(3, 2, height, 66 - height), draw(4, count=3, reach=5)
        results = [augment(images, indices, crop_offsets=offsets, flip=flip, backend=name) for name in BACKENDS]
        assert torch.equal(*results), height


def test_compiles_without_graph_breaks_and_takes_no_images(backend, device):
    images, (indices, offsets, flip) = dataset().to(device), (value.to(device) for value in draw(4))

    def batch(indices, offsets, flip):
        return augment(
            images, indices, crop_offsets=offsets, flip=flip, dtype=torch.bfloat16, memory_format=torch.channels_last,
            backend=backend,
        )  # fmt: skip

    torch._dynamo.reset()
    compiled = torch.compile(batch, fullgraph=True, backend="aot_eager" if device.type == "cpu" else "inductor")
    result = compiled(indices, offsets, flip)
    assert torch.equal(result, batch(indices, offsets, flip))
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert augment(images, indices[:0]).shape == (0, 3, 9, 7)


def test_registration_is_consistent():
    indices, offsets, flip = draw(3)
    torch.library.opcheck(
        torch.ops.dat_kernels.augment.default, (dataset(), indices, offsets, flip, torch.float32, True, "reference")
    )


WRONG = {
    "float dataset": ({"dataset": torch.zeros(2, 3, 4, 4)}, TypeError, "dataset has dtype torch.float32; .*uint8"),
    "flat dataset": ({"dataset": torch.zeros(2, 48).byte()}, ValueError, r"dataset has shape \(2, 48\)"),
    "narrow indices": ({"indices": torch.zeros(2).int()}, TypeError, "indices has dtype torch.int32"),
    "indices of two dimensions": ({"indices": torch.zeros(2, 1).long()}, ValueError, r"indices has shape \(2, 1\)"),
    "index too large": ({"indices": torch.tensor([0, 12])}, ValueError, r"indices range from 0 to 12; .* \[0, 12\)"),
    "negative index": ({"indices": torch.tensor([-1, 3])}, ValueError, "indices range from -1 to 3"),
    "indices elsewhere": ({"indices": torch.zeros(2, device="meta").long()}, ValueError, "indices is on meta"),
    "offsets of another batch": ({"crop_offsets": torch.zeros(3, 2).long()}, ValueError, "crop_offsets has shape"),
    "integer dtype": ({"dtype": torch.int32}, TypeError, "dtype is torch.int32"),
    "memory format": ({"memory_format": torch.preserve_format}, ValueError, "memory_format is torch.preserve_format"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "error", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_input_is_named(changes, error, message):
    correct = {"dataset": dataset(), "indices": torch.tensor([1, 2])}
    with pytest.raises(error, match=message):
        augment(**(correct | changes))

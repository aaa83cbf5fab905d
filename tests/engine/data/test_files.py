"""Image files: what a split of them holds, and how a file becomes pixels."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from dat_engine.data import DataError, FileSettings, ImageFiles
from dat_engine.data.files.decoding import CorruptImage, centre_view, decode, size_in_file
from tests.engine.data.pictures import photograph


def _files(n=3, **settings):
    defaults = {
        "paths": tuple(f"{number}.jpg" for number in range(n)),
        "targets": torch.arange(n) % 2,
        "class_names": ("a", "b"),
        "image_size": 8,
        "resize": 8,
    }
    return ImageFiles(**{**defaults, **settings})


def test_a_split_of_files_knows_its_size_and_shape():
    files = _files(5, image_size=24, resize=32)
    assert (len(files), files.num_classes, files.image_shape) == (5, 2, (3, 24, 24))


def test_selected_files_keep_their_labels_and_settings():
    files = _files(5, image_size=24, resize=32, on_damaged="skip").select(torch.tensor([3, 0]))
    assert files.paths == ("3.jpg", "0.jpg")
    assert files.targets.tolist() == [1, 0]
    assert (files.image_size, files.resize, files.on_damaged, files.class_names) == (24, 32, "skip", ("a", "b"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"paths": ()}, r"there are 0 paths and targets of shape \(3,\)"),
        ({"targets": torch.tensor([0, 1])}, r"there are 3 paths and targets of shape \(2,\); give N paths"),
        ({"targets": torch.tensor([0, 1, 2])}, "targets run from 0 to 2, but there are 2 class names"),
        ({"image_size": 9}, "images of 9 pixels cannot be cut out of files whose shorter edge is scaled to 8"),
        ({"image_size": 0}, "image_size must be positive and at most resize"),
        ({"on_damaged": "ignore"}, "on_damaged is 'ignore'; use 'skip' or 'fatal'"),
    ],
)
def test_files_refuse_what_does_not_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        _files(**settings)


def test_files_refuse_targets_of_another_dtype():
    with pytest.raises(TypeError, match=r"targets are torch\.int32; give int64 targets"):
        _files(targets=torch.tensor([0, 1, 1], dtype=torch.int32))


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="image_size is 0; use a positive number of pixels, or None"):
        FileSettings(image_size=0)
    with pytest.raises(ValueError, match="resize is -1; use a positive number of pixels"):
        FileSettings(resize=-1)
    with pytest.raises(ValueError, match="on_damaged is 'x'; use 'skip' or 'fatal'"):
        FileSettings(on_damaged="x")


def test_rgb_is_decoded_as_stored(tmp_path):
    image = photograph(7, 5, seed=0)
    image.save(tmp_path / "image.png")
    pixels = decode(str(tmp_path / "image.png"))
    assert pixels.dtype == torch.uint8 and pixels.shape == (3, 7, 5)
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), np.asarray(image))
    assert size_in_file(str(tmp_path / "image.png")) == (7, 5)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_jpegs_become_rgb(tmp_path, mode):
    image = photograph(16, 24, seed=1)
    path = str(tmp_path / "image.jpg")
    image.convert(mode).save(path, quality=100)
    expected = np.asarray(image.convert(mode).convert("RGB"), dtype=int)
    pixels = decode(path).permute(1, 2, 0).numpy().astype(int)
    assert abs(pixels - expected).max() < 12  # the loss of JPEG
    assert (pixels[..., 0] == pixels[..., 1]).all() == (mode == "L")


def test_the_orientation_that_a_camera_noted_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    photograph(16, 24, seed=1).save(tmp_path / "image.jpg", exif=exif)
    assert decode(str(tmp_path / "image.jpg")).shape == (3, 16, 24)


def _content(image, file_format, **settings):
    stream = io.BytesIO()
    image.save(stream, file_format, **settings)
    return stream.getvalue()


_JPEG = _content(photograph(16, 24, seed=1), "JPEG")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an image in a known format"),
        (b"<html>404</html>", "not an image in a known format"),
        (bytes(2000), "not an image in a known format"),
        (_JPEG[:-100], "truncated"),
        (_JPEG[:-2], "truncated"),
        (_JPEG[:30], "Truncated"),
        (_content(photograph(16, 24, seed=1), "PNG")[:200], "truncated"),
    ],
    ids=["empty", "web page", "zeros", "part of the pixels", "without its end", "part of the header", "half a PNG"],
)
def test_damaged_content_is_told_from_an_unreadable_file(tmp_path, content, reason):
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    with pytest.raises(CorruptImage, match=reason) as caught:
        decode(str(path))
    assert str(path) not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "missing.jpg"
    for read in (decode, size_in_file):
        with pytest.raises(DataError) as caught:
            read(str(path))
        assert str(caught.value) == (
            f"image file {path} cannot be read (No such file or directory); "
            "check the path, its permissions and the disk"
        )


@pytest.mark.parametrize("size", [(16, 16), (16, 40), (37, 21), (9, 50), (100, 64), (300, 17)])
def test_the_centre_view_is_torchvisions_resize_and_a_central_crop(size):
    pixels = torch.from_numpy(np.array(photograph(*size, seed=2))).permute(2, 0, 1)
    for image_size, resize in ((16, 16), (12, 16), (15, 18)):
        resized = v2.functional.resize(pixels, [resize], antialias=True)
        top, left = ((length - image_size) // 2 for length in resized.shape[1:])
        expected = resized[:, top : top + image_size, left : left + image_size]
        assert torch.equal(centre_view(pixels, _files(image_size=image_size, resize=resize)), expected)

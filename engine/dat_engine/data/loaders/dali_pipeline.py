"""DALI's graphs: image files, or images in memory, to uint8 batches on the device.

Whatever is random stays outside. The graphs read, decode, scale and cut; what they are to work on is handed to them
batch by batch, so a batch is a function of its request and a pipeline can start at any position of an epoch.
"""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from dat_engine.data.files.files import ImageFiles

__all__ = ["ViewsPipeline", "array_views", "centre_and_window_views", "centre_views", "dali_installed"]

_PREFETCH = 2


def dali_installed() -> bool:
    """Whether NVIDIA DALI can be imported."""
    try:
        _dali()
    except ImportError:
        return False
    return True


def _dali() -> Any:
    # Not an import statement: DALI is optional, slow to import, and its type stubs lack much of what is there.
    return import_module("nvidia.dali")


class _Requests:
    """DALI's external source: asks whoever runs the pipeline at the time."""

    iterator: Iterator[Any] = iter(())

    def __call__(self) -> Any:
        return next(self.iterator)


class ViewsPipeline:
    """A DALI pipeline and what it is asked for; two batches are prepared ahead.

    It can be run again after it has answered all requests. After an error, or when a run is left before its end, it
    is closed: build another.
    """

    def __init__(self, pipeline: Any, requests: _Requests, device: torch.device) -> None:
        self._pipeline = pipeline
        self._requests = requests
        self._device = device

    def run(self, requests: Iterator[Any]) -> Iterator[tuple[Tensor, ...]]:
        """The views that answer each request, in order: uint8 [B, C, H, W] on the device.

        Raises RuntimeError where DALI fails, at that request or at a later one that was being prepared.
        """
        finished = False
        self._requests.iterator = requests
        self._pipeline.reset()
        try:
            while True:
                try:
                    outputs = self._run_once()
                except StopIteration:
                    finished = True
                    return
                yield tuple(_as_torch(output) for output in outputs)
        finally:
            # The iterator belongs to a loader that may in turn hold this pipeline.
            self._requests.iterator = iter(())
            if not finished:
                self.close()

    def close(self) -> None:
        """End DALI's threads and free its memory.

        Now, and not when the last reference is gone: an error's traceback refers in a circle, and the garbage
        collector that breaks it may come round in a worker process that was forked in the meantime. That process has
        none of DALI's threads, and dies of ending them.
        """
        self._pipeline.__del__()

    def __del__(self) -> None:
        self.close()

    def _run_once(self) -> Any:
        if self._device.type == "cpu":
            return self._pipeline.run()
        # The outputs then belong to torch's stream: the host waits for nothing, and DALI reuses their memory only
        # after the work that torch has queued on it.
        return self._pipeline.run(torch.cuda.current_stream(self._device))


def centre_views(files: ImageFiles, *, batch_size: int, threads: int, device: torch.device) -> ViewsPipeline:
    """Requests: paths, a list of B uint8 arrays. Views: the un-augmented images (see `ImageFiles`)."""
    dali = _dali()
    requests = _Requests()

    @dali.pipeline_def(enable_conditionals=True, **_settings(batch_size, threads, device))
    def graph() -> Any:
        paths = dali.fn.external_source(source=requests, batch=True)
        pixels, shape = _decoded(dali, paths, device)
        return _centre(dali, pixels, shape, files)

    return ViewsPipeline(graph(), requests, device)


def centre_and_window_views(
    files: ImageFiles, *, windows: int, batch_size: int, threads: int, device: torch.device
) -> ViewsPipeline:
    """Requests: paths, a list of B uint8 arrays, and `windows` lists of B int32 arrays (top, left, height, width).

    Views: the un-augmented images, and the windows scaled to the image size (bilinear, antialiased).
    """
    dali = _dali()
    requests = _Requests()

    @dali.pipeline_def(enable_conditionals=True, **_settings(batch_size, threads, device))
    def graph() -> Any:
        paths, *places = dali.fn.external_source(source=requests, num_outputs=1 + windows, batch=True)
        pixels, shape = _decoded(dali, paths, device)
        cut = [dali.fn.slice(pixels, start=place[:2], shape=place[2:], axes=(0, 1)) for place in places]
        size = files.image_size
        return _centre(dali, pixels, shape, files), *(_scaled(dali, window, size, size) for window in cut)

    return ViewsPipeline(graph(), requests, device)


def array_views(*, batch_size: int, threads: int, device: torch.device) -> ViewsPipeline:
    """Requests: uint8 [B, C, H, W] on the CPU. Views: the same on the device."""
    dali = _dali()
    requests = _Requests()

    @dali.pipeline_def(**_settings(batch_size, threads, device))
    def graph() -> Any:
        images = dali.fn.external_source(source=requests, batch=True, layout="CHW")
        return images if device.type == "cpu" else images.gpu()

    return ViewsPipeline(graph(), requests, device)


def _settings(batch_size: int, threads: int, device: torch.device) -> dict[str, Any]:
    index = None
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
    return {
        "batch_size": batch_size,
        "num_threads": threads,
        "device_id": index,
        "prefetch_queue_depth": _PREFETCH,
    }


def _decoded(dali: Any, paths: Any, device: torch.device) -> tuple[Any, Any]:
    """Pixels [h, w, 3] on the device, and the shape (h, w, ...) on the CPU."""
    fn, types = dali.fn, dali.types
    encoded = fn.io.file.read(paths, dont_use_mmap=True)
    pixels = fn.decoders.image(
        encoded,
        device="cpu" if device.type == "cpu" else "mixed",
        output_type=types.RGB,
        # As Pillow and torchvision do; without the second, nvJPEG interpolates chroma in another way.
        adjust_orientation=False,
        jpeg_fancy_upsampling=True,
    )
    # Of the pixels as they are decoded: its own default is the shape after turning them upright.
    return pixels, fn.peek_image_shape(encoded, dtype=types.INT32, adjust_orientation=False)


def _centre(dali: Any, pixels: Any, shape: Any, files: ImageFiles) -> Any:
    fn = dali.fn
    shorter = dali.math.min(shape[0], shape[1])
    height, width = shape[0] * files.resize // shorter, shape[1] * files.resize // shorter
    # A condition of each sample: scaling a small image to its own size would cost more than decoding it.
    scaled = pixels
    if shorter != files.resize:
        scaled = _scaled(dali, pixels, height, width)
    start = fn.stack((height - files.image_size) // 2, (width - files.image_size) // 2)
    return fn.slice(scaled, start=start, shape=(files.image_size, files.image_size), axes=(0, 1))


def _scaled(dali: Any, pixels: Any, height: Any, width: Any) -> Any:
    fn, types = dali.fn, dali.types
    return fn.resize(
        pixels,
        resize_y=fn.cast(height, dtype=types.FLOAT),
        resize_x=fn.cast(width, dtype=types.FLOAT),
        interp_type=types.INTERP_LINEAR,
        antialias=True,
    )


def _as_torch(output: Any) -> Tensor:
    batch = torch.from_dlpack(output.as_tensor())
    # Seen as [B, C, H, W] where it lies as [B, H, W, C], which is how DALI decodes.
    return batch if output.layout() == "CHW" else batch.permute(0, 3, 1, 2)

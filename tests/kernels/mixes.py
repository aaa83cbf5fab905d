"""Arguments of the amplitude mix, and its result with the gradient to the amplitude."""

import torch

from dat_kernels import amplitude_mix
from tests.kernels.inputs import generator, make_images


def arguments(shape, seed=0, kind="one_over_f", dtype=torch.float32):
    random = generator(seed + 1000)
    images = make_images(kind, shape, seed).to(dtype)
    amplitude = (3 * torch.rand(shape, generator=random)).to(dtype)
    return images, amplitude, torch.rand(shape[0], generator=random)


def views(batch, reach=3, seed=0):
    random = generator(seed)
    return {
        "crop_offsets": torch.randint(-reach, reach + 1, (batch, 2), generator=random),
        "flip": torch.rand(batch, generator=random) < 0.5,
    }


def result_and_gradient(images, amplitude, lam, grad, backend, **extra):
    amplitude = amplitude.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    mixed = amplitude_mix(images, amplitude, lam, backend=backend, **extra)
    (gradient,) = torch.autograd.grad(mixed, amplitude, grad)
    return mixed.detach(), gradient

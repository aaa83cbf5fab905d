"""Gather, crop, flip and convert 8-bit images on CUDA in one pass: the kernel and its one launch."""

# Triton compiles the kernel; its arguments have no Python types.
# mypy: allow-untyped-defs, allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from dat_kernels import triton_tensors

BLOCK = 1024


def serves(dataset: Tensor, *others: Tensor) -> str | None:
    return triton_tensors.why_not((torch.uint8, torch.int64, *triton_tensors.FLOATING, torch.float64), dataset, *others)


def forward(dataset: Tensor, indices: Tensor, crop_offsets: Tensor | None, flip: Tensor | None, out: Tensor) -> None:
    batch, channels, height, width = out.shape
    crop_strides = (0, 0) if crop_offsets is None else crop_offsets.stride()
    with torch.cuda.device_of(dataset):
        gather_augmented[(batch * triton.cdiv(channels * height * width, BLOCK),)](
            dataset, indices, crop_offsets, flip, out,
            *dataset.stride(), indices.stride(0), *crop_strides, 0 if flip is None else flip.stride(0), *out.stride(),
            CHANNELS=channels, HEIGHT=height, WIDTH=width, CHANNELS_LAST=out.stride(1) == 1, BLOCK=BLOCK, num_warps=4,
        )  # fmt: skip


@triton.jit
def gather_augmented(
    dataset_ptr,  # [N, CHANNELS, HEIGHT, WIDTH] uint8, strides dataset_stride_*
    indices_ptr,  # [B] int64, stride indices_stride
    crop_ptr,  # [B, 2] int32 or int64, strides crop_stride_*; or None
    flip_ptr,  # [B] bool, stride flip_stride; or None
    out_ptr,  # [B, CHANNELS, HEIGHT, WIDTH] floating, strides out_stride_*
    dataset_stride_n,
    dataset_stride_c,
    dataset_stride_h,
    dataset_stride_w,
    indices_stride,
    crop_stride_b,
    crop_stride_d,
    flip_stride,
    out_stride_b,
    out_stride_c,
    out_stride_h,
    out_stride_w,
    CHANNELS: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A program writes BLOCK elements of one image, in the order in which the result has them in memory."""
    blocks: tl.constexpr = (CHANNELS * HEIGHT * WIDTH + BLOCK - 1) // BLOCK
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    element = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    valid = element < CHANNELS * HEIGHT * WIDTH
    if CHANNELS_LAST:
        c, y, x = element % CHANNELS, element // (CHANNELS * WIDTH), element // CHANNELS % WIDTH
    else:
        c, y, x = element // (HEIGHT * WIDTH), element // WIDTH % HEIGHT, element % WIDTH
    c, y, x = c.to(tl.int64), y.to(tl.int64), x.to(tl.int64)
    from_y, from_x = y, x
    if flip_ptr is not None:
        from_x = tl.where(tl.load(flip_ptr + sample * flip_stride) != 0, WIDTH - 1 - x, x)
    if crop_ptr is not None:
        from_y += tl.load(crop_ptr + sample * crop_stride_b).to(tl.int64)
        from_x += tl.load(crop_ptr + sample * crop_stride_b + crop_stride_d).to(tl.int64)
    inside = valid & (from_y >= 0) & (from_y < HEIGHT) & (from_x >= 0) & (from_x < WIDTH)
    dataset_ptr += tl.load(indices_ptr + sample * indices_stride) * dataset_stride_n
    dataset_ptr += c * dataset_stride_c + from_y * dataset_stride_h + from_x * dataset_stride_w
    level = tl.load(dataset_ptr, mask=inside, other=0)
    if out_ptr.dtype.element_ty == tl.float64:
        value = level.to(tl.float64) / 255.0
    else:
        # plain division is not correctly rounded in float32, and 1/255 is not a float32
        value = tl.div_rn(level.to(tl.float32), 255.0).to(out_ptr.dtype.element_ty)
    out_ptr += sample * out_stride_b + c * out_stride_c + y * out_stride_h + x * out_stride_w
    tl.store(out_ptr, value, mask=valid)

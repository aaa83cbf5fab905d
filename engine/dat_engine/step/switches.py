"""Ways of running a step that differ in speed, and in rounding at most; the GPU acceptance run times each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Switches:
    """All of them are fields of a recipe's `engine` group, whose class extends this one."""

    cudnn_benchmark: bool = True
    """cuDNN chooses its algorithms by timing them at a shape's first step, which the warm-up before a capture is; not where
    deterministic algorithms are asked for. Shapes of a step are fixed. Nothing on a CPU."""
    tf32: bool = False
    """float32 matrix products in TF32: those of a method's generator, and under fp32 precision the classifier's too. Nothing
    on a CPU."""
    compile_players: bool = False
    """In a compiled step, torch.compile the networks beside the classifier whose players take a stand-in (`Player.use`)."""
    bf16_players: bool = False
    """Those networks compute in bfloat16, whatever the precision; their weights stay, and their results leave, float32."""
    padded_stem: bool = False
    """In the attack, give convolutions of fewer than eight input channels eight, with zeros: tensor cores take eight at a
    time, and the gradient of an image's three channels is not theirs."""
    fused_epilogues: bool = False
    """In a folded attack, cuDNN's convolution does bias, residual and ReLU too, in one launch; not where deterministic
    algorithms are asked for. On a CPU the same operations one by one."""
    dependent_launch: bool = False
    """Generated kernels begin before the one ahead of them has ended (programmatic dependent launch, compute capability 9
    and up); where torch's compiler knows it."""

    @contextmanager
    def on(self) -> Iterator[None]:
        """Within the block the process's settings are those of these switches."""
        import torch

        cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
        benchmark, tf32 = cudnn.benchmark, products.allow_tf32 if self.tf32 else False
        cudnn.benchmark = benchmark or (self.cudnn_benchmark and not cudnn.deterministic)
        if self.tf32:
            products.allow_tf32 = True
        try:
            yield
        finally:
            cudnn.benchmark = benchmark
            if self.tf32:
                products.allow_tf32 = tf32

"""The losses, from logits. Everything is averaged over the batch; no target of a divergence is detached here."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

from dat_engine.attack.pgd import LogitGradient


def smoothed_targets(targets: Tensor, num_classes: int, label_smoothing: float, dtype: torch.dtype) -> Tensor:
    """Labels [B], or soft labels [B, K] in place of onehot -> probabilities [B, K]: ``(1 - s) * onehot + s / K``."""
    off = label_smoothing / num_classes
    if targets.ndim == 2:
        return targets.to(dtype) * (1.0 - label_smoothing) + off
    smoothed = torch.full((targets.shape[0], num_classes), off, device=targets.device, dtype=dtype)
    return smoothed.scatter_(1, targets[:, None], 1.0 - label_smoothing + off)


def kl_divergences(logits: Tensor, other: Tensor) -> Tensor:
    """``KL(softmax(logits) || softmax(other))`` of each image, [B], from [B, K] logits."""
    log_p = functional.log_softmax(logits, dim=1)
    log_q = functional.log_softmax(other, dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


def kl_divergence(logits: Tensor, other: Tensor) -> Tensor:
    """``KL(softmax(logits) || softmax(other))`` of [B, K] logits, "batchmean"."""
    return kl_divergences(logits, other).mean()


def js_divergence(*logits: Tensor) -> Tensor:
    """Mean over the predictions p_i of ``KL(p_i || m)``, m being their mean clamped to [1e-7, 1]; "batchmean".

    Args:
        logits: [B, K] each, two of them or more.
    """
    log_ps = [functional.log_softmax(each, dim=1) for each in logits]
    ps = [log_p.exp() for log_p in log_ps]
    log_m = (reduce(torch.add, ps) / len(ps)).clamp(1e-7, 1.0).log()
    divergences = reduce(torch.add, [p * (log_p - log_m) for p, log_p in zip(ps, log_ps, strict=True)])
    return (divergences.sum(dim=1) / len(ps)).mean()


def adversarial_training_loss(
    clean: Tensor, adversarial: Tensor, targets: Tensor, *, beta: float, label_smoothing: float = 0.0
) -> Tensor:
    """``L_AT = CE_s(f(x), y) + beta * KL(f(x) || f(x'))`` (DAT eq. 9; with s = 0 this is the TRADES loss)."""
    cross_entropy = functional.cross_entropy(clean, targets, label_smoothing=label_smoothing)
    return cross_entropy + beta * kl_divergence(clean, adversarial)


def dat_loss(
    clean: Tensor,
    adversarial: Tensor,
    mixed: Tensor,
    mixed_adversarial: Tensor,
    targets: Tensor,
    *,
    beta: float,
    omega: float,
    label_smoothing: float,
) -> Tensor:
    """``L_DAT = (L_AT(x) + L_AT(x_mixed)) / 2 + omega * JS(f(x), f(x_mixed))`` (Li et al., NeurIPS 2024).

    Args:
        clean, adversarial, mixed, mixed_adversarial: logits [B, K] of x, x', the amplitude-mixed image and its x'.
        targets: labels [B], int64, or soft labels [B, K].
        beta, omega: weights of the KL and of the JS divergence.
        label_smoothing: s in [0, 1).
    """
    clean_loss = adversarial_training_loss(clean, adversarial, targets, beta=beta, label_smoothing=label_smoothing)
    mixed_loss = adversarial_training_loss(
        mixed, mixed_adversarial, targets, beta=beta, label_smoothing=label_smoothing
    )
    return dual_loss_terms(clean_loss, mixed_loss, js_divergence(clean, mixed), omega=omega)["loss"]


def dual_loss_terms(clean_loss: Tensor, mixed_loss: Tensor, js: Tensor | None, *, omega: float) -> dict[str, Tensor]:
    """Those of an image and of its mixed twin as one: ``loss = (clean_loss + mixed_loss) / 2 + omega * js``, and its terms.

    `js` is the divergence between the predictions on the two, None where there is none.
    """
    terms = {"loss": (clean_loss + mixed_loss) / 2, "clean_loss": clean_loss, "mixed_loss": mixed_loss}
    return terms if js is None else {**terms, "loss": terms["loss"] + omega * js, "js": js}


def soft_target_ascent(targets: Tensor) -> LogitGradient:
    """dL/dlogits of a cross entropy against fixed soft targets [B, K], for `pgd_attack`: ``softmax(logits) - targets``.

    ``CE(f', y_s) + beta * KL(p || f')`` with constant p differs from ``(1 + beta) * CE(f', (y_s + beta * p) / (1 + beta))``
    by a constant, so every attack on cross entropy, KL or their sum ascends one such loss.
    """

    def gradient(logits: Tensor) -> Tensor:
        return logits.softmax(dim=1) - targets

    return gradient


def cross_entropy_ascent(targets: Tensor, num_classes: int, dtype: torch.dtype = torch.float32) -> LogitGradient:
    """`soft_target_ascent` on the cross entropy against labels [B], int64, or soft labels [B, K]."""
    return soft_target_ascent(smoothed_targets(targets, num_classes, 0.0, dtype))


def dat_attack_targets(clean: Tensor, targets: Tensor, *, beta: float, label_smoothing: float) -> Tensor:
    """Soft targets of ``L_AE = CE_s(f(x'), y) + beta * KL(f(x) || f(x'))`` given the clean logits [B, K]."""
    smoothed = smoothed_targets(targets, clean.shape[1], label_smoothing, clean.dtype)
    return (smoothed + beta * clean.softmax(dim=1)) / (1.0 + beta)

"""The losses of MART, squeeze training, spectral alignment and DAJAT, image by image. Logits [B, K], targets int64 [B]."""

import torch
from torch import Tensor

from tests.oracle.losses import MIXTURE_FLOOR, cross_entropy, kl_divergence, log_softmax


def mart_terms(clean_logits: Tensor, adversarial_logits: Tensor, targets: Tensor, *, beta: float) -> dict[str, Tensor]:
    """boosted = mean of -log p'_y - log(1.0001 - max_{k≠y} p'_k); weighted_kl = mean of (1 - p_y)·KL(p‖p'); loss."""
    batch, classes = clean_logits.shape
    boosted, weighted = torch.zeros((), dtype=clean_logits.dtype), torch.zeros((), dtype=clean_logits.dtype)
    for sample in range(batch):
        label = int(targets[sample])
        log_p, log_q = log_softmax(clean_logits)[sample], log_softmax(adversarial_logits)[sample]
        p, q = torch.exp(log_p), torch.exp(log_q)
        runner_up = torch.stack([q[k] for k in range(classes) if k != label]).max()
        boosted = boosted - log_q[label] - torch.log(1.0001 - runner_up)
        weighted = weighted + (1 - p[label]) * (p * (log_p - log_q)).sum()
    terms = {"boosted": boosted / batch, "weighted_kl": weighted / batch}
    return {**terms, "loss": terms["boosted"] + beta * terms["weighted_kl"]}


def squeeze_terms(
    clean_logits: Tensor, collaborative_logits: Tensor, adversarial_logits: Tensor, targets: Tensor, *, beta: float
) -> dict[str, Tensor]:
    """cross_entropy of x; squeeze = mean of (KL(p̄‖q) + KL(q̄‖p)) / 2 over the two of the three with the highest and the lowest
    probability of the label, a bar for a constant; loss."""
    candidates = (clean_logits, collaborative_logits, adversarial_logits)
    batch = len(clean_logits)
    squeeze = torch.zeros((), dtype=clean_logits.dtype)
    for sample in range(batch):
        rows = [logits[sample : sample + 1] for logits in candidates]
        rows.sort(key=lambda row: float(log_softmax(row.detach())[0, int(targets[sample])]))
        lowest, highest = rows[0], rows[-1]
        squeeze = squeeze + kl_divergence(highest.detach(), lowest) / 2 + kl_divergence(lowest.detach(), highest) / 2
    terms = {"cross_entropy": cross_entropy(clean_logits, targets), "squeeze": squeeze / batch}
    return {**terms, "loss": terms["cross_entropy"] + beta * terms["squeeze"]}


def sar_terms(
    clean_logits: Tensor, adversarial_logits: Tensor, targets: Tensor, *, weight: float, spectrum: str
) -> dict[str, Tensor]:
    """cross_entropy of x'; spectral = mean |DFT f(x) - DFT f(x')| over real and imaginary parts of every frequency; loss."""
    transform = torch.fft.fft2 if spectrum == "batch" else torch.fft.fft  # of the last axes
    clean, adversarial = (torch.view_as_real(transform(each)) for each in (clean_logits, adversarial_logits))
    terms = {
        "cross_entropy": cross_entropy(adversarial_logits, targets),
        "spectral": torch.nn.functional.l1_loss(adversarial, clean),
    }
    return {**terms, "loss": terms["cross_entropy"] + weight * terms["spectral"]}


def dajat_terms(
    clean_logits: list[Tensor],
    adversarial_logits: list[Tensor],
    targets: Tensor,
    *,
    beta: float,
    js_weight: float,
    label_smoothing: float,
) -> dict[str, Tensor]:
    """Mean over the views of CE_s(f(x_i), y) + beta·KL(f(x_i)‖f(x_i')), plus js_weight·JS of all f(x_i)."""
    count, batch = len(clean_logits), len(targets)
    entropies = [cross_entropy(each, targets, label_smoothing=label_smoothing) for each in clean_logits]
    divergences = [kl_divergence(one, other) for one, other in zip(clean_logits, adversarial_logits, strict=True)]
    mixture = torch.log((sum(torch.exp(log_softmax(each)) for each in clean_logits) / count).clamp(MIXTURE_FLOOR, 1.0))
    js = [(torch.exp(log_softmax(each)) * (log_softmax(each) - mixture)).sum() / batch for each in clean_logits]
    terms = {"cross_entropy": sum(entropies) / count, "kl": sum(divergences) / count, "js": sum(js) / count}
    return {**terms, "loss": terms["cross_entropy"] + beta * terms["kl"] + js_weight * terms["js"]}

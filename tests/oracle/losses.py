"""Every loss term of the method, written out. Logits [B, K]; each function returns a 0-dim tensor.

KL is summed over classes and averaged over the batch; no argument is detached anywhere.
"""

import torch
from torch import Tensor

MIXTURE_FLOOR = 1e-7


def log_softmax(logits: Tensor) -> Tensor:
    """log p, with the largest logit taken off first."""
    shifted = logits - logits.max(dim=1, keepdim=True).values.detach()
    return shifted - torch.log(torch.exp(shifted).sum(dim=1, keepdim=True))


def cross_entropy(logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """CE_s: minus the mean over the batch of sum_k q_k·log p_k, q = (1-s)·onehot + s/K; targets int64 [B]."""
    batch, classes = logits.shape
    wanted = torch.full((batch, classes), label_smoothing / classes, dtype=logits.dtype)
    for sample in range(batch):
        wanted[sample, int(targets[sample])] += 1 - label_smoothing
    return -(wanted * log_softmax(logits)).sum() / batch


def kl_divergence(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """KL(p‖q), p = softmax(logits_p), q = softmax(logits_q)."""
    log_p, log_q = log_softmax(logits_p), log_softmax(logits_q)
    return (torch.exp(log_p) * (log_p - log_q)).sum() / logits_p.shape[0]


def jensen_shannon(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """(KL(p‖m) + KL(q‖m)) / 2 with m = (p + q)/2 clamped to [1e-7, 1]."""
    log_p, log_q = log_softmax(logits_p), log_softmax(logits_q)
    p, q = torch.exp(log_p), torch.exp(log_q)
    log_mixture = torch.log(((p + q) / 2).clamp(MIXTURE_FLOOR, 1.0))
    divergence_p = (p * (log_p - log_mixture)).sum() / logits_p.shape[0]
    divergence_q = (q * (log_q - log_mixture)).sum() / logits_p.shape[0]
    return (divergence_p + divergence_q) / 2


def attack_loss(
    clean_logits: Tensor, adversarial_logits: Tensor, targets: Tensor, *, beta: float, label_smoothing: float
) -> Tensor:
    """L_AE = CE_s(f(x'), y) + beta·KL(f(x)‖f(x')): what DAT's adversarial examples pgd_attack."""
    smoothed = cross_entropy(adversarial_logits, targets, label_smoothing=label_smoothing)
    return smoothed + beta * kl_divergence(clean_logits, adversarial_logits)


def adversarial_training_loss(
    clean_logits: Tensor, adversarial_logits: Tensor, targets: Tensor, *, beta: float, label_smoothing: float
) -> Tensor:
    """L_AT = CE_s(f(x), y) + beta·KL(f(x)‖f(x')): one branch's share of L_DAT, and the whole of TRADES at s = 0."""
    smoothed = cross_entropy(clean_logits, targets, label_smoothing=label_smoothing)
    return smoothed + beta * kl_divergence(clean_logits, adversarial_logits)


def dat_terms(
    logits: dict[str, Tensor], targets: Tensor, *, beta: float, omega: float, label_smoothing: float
) -> dict[str, Tensor]:
    """Every term of L_DAT by name.

    `logits` has the groups "clean", "adversarial" (branch base), "mixed", "mixed_adversarial" (branch mix). Result:
    cross_entropy, kl, at (base), mixed_cross_entropy, mixed_kl, mixed_at (mix), js, and loss = L_DAT.
    """
    terms = {}
    for prefix, clean, adversarial in (("", "clean", "adversarial"), ("mixed_", "mixed", "mixed_adversarial")):
        terms[f"{prefix}cross_entropy"] = cross_entropy(logits[clean], targets, label_smoothing=label_smoothing)
        terms[f"{prefix}kl"] = kl_divergence(logits[clean], logits[adversarial])
        terms[f"{prefix}at"] = adversarial_training_loss(
            logits[clean], logits[adversarial], targets, beta=beta, label_smoothing=label_smoothing
        )
    terms["js"] = jensen_shannon(logits["clean"], logits["mixed"])
    terms["loss"] = (terms["at"] + terms["mixed_at"]) / 2 + omega * terms["js"]
    return terms


def ablated_terms(
    logits: dict[str, Tensor], targets: Tensor, *, training_loss: str, beta: float, omega: float, label_smoothing: float
) -> dict[str, Tensor]:
    """L_DAT of the groups that there are, by `training_loss` "trades" or "pgd-at" in the place of L_AT.

    Without mixed groups the loss is that of x alone; the divergence between the predictions on x and on the mixed image
    needs both. Result: at, mixed_at, js, loss, those of them that there are.
    """

    def of_pair(clean: str, adversarial: str) -> Tensor:
        if training_loss == "pgd-at":
            return cross_entropy(logits[adversarial], targets, label_smoothing=label_smoothing)
        return adversarial_training_loss(
            logits[clean], logits[adversarial], targets, beta=beta, label_smoothing=label_smoothing
        )

    terms = {"at": of_pair("clean", "adversarial")}
    if "mixed_adversarial" not in logits:
        return {**terms, "loss": terms["at"]}
    terms["mixed_at"] = of_pair("mixed", "mixed_adversarial")
    terms["loss"] = 0.5 * terms["at"] + 0.5 * terms["mixed_at"]
    if "mixed" in logits:
        terms["js"] = jensen_shannon(logits["clean"], logits["mixed"])
        terms["loss"] = terms["loss"] + omega * terms["js"]
    return terms


def trades_terms(
    clean_logits: Tensor, adversarial_logits: Tensor, targets: Tensor, *, beta: float, label_smoothing: float = 0.0
) -> dict[str, Tensor]:
    """TRADES: cross_entropy of the clean images, kl, and loss = cross_entropy + beta·kl."""
    smoothed = cross_entropy(clean_logits, targets, label_smoothing=label_smoothing)
    divergence = kl_divergence(clean_logits, adversarial_logits)
    return {"cross_entropy": smoothed, "kl": divergence, "loss": smoothed + beta * divergence}


def pgd_at_terms(adversarial_logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> dict[str, Tensor]:
    """PGD-AT: loss = cross entropy of the adversarial images."""
    return {"loss": cross_entropy(adversarial_logits, targets, label_smoothing=label_smoothing)}

"""The fused kernels in a training loop of your own: amplitude mixing as augmentation, and PGD.

    python examples/kernels_in_another_loop.py

Takes some seconds on the embedded handwritten digits.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from dat_kernels import amplitude_mix, pgd_step

EPSILON, STEP_SIZE, STEPS = 0.1, 0.025, 5

torch.manual_seed(0)
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16  # [N, 1, 8, 8] in [0, 1]
labels = torch.tensor(digits.target)
network = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 64, 10))
optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)


def attacked(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """PGD on the cross entropy within EPSILON around x."""
    adversarial = (x + torch.empty_like(x).uniform_(-EPSILON, EPSILON)).clamp(0, 1)
    for _ in range(STEPS):
        adversarial.requires_grad_(True)
        (gradient,) = torch.autograd.grad(functional.cross_entropy(network(adversarial), y), adversarial)
        adversarial = pgd_step(adversarial.detach(), gradient, x, step_size=STEP_SIZE, epsilon=EPSILON)
    return adversarial


for step in range(60):
    chosen = torch.randint(0, 1500, (128,))
    x, y = images[chosen], labels[chosen]
    amplitude = torch.fft.fft2(x.roll(1, dims=0)).abs()  # of another image of the batch, in FFT order
    mixed = amplitude_mix(x, amplitude, 0.5 * torch.rand(len(x)))  # the phase, and so the digit, remains
    both = torch.cat([attacked(x, y), mixed])
    loss = functional.cross_entropy(network(both), torch.cat([y, y]))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 19:
        print(f"step {step + 1}: loss {loss.item():.3f}")

x, y = images[1500:], labels[1500:]
natural, robust = ((network(z).argmax(1) == y).float().mean().item() for z in (x, attacked(x, y)))
print(f"natural {100 * natural:.1f} %, under PGD-{STEPS} {100 * robust:.1f} %")

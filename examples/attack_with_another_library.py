"""Attack a trained classifier with AutoAttack's own implementation, and compare with `dat.evaluate`.

    pip install 'dat-engine[autoattack]'
    python examples/attack_with_another_library.py runs/example

Any library that attacks a torch module that maps images in [0, 1] to logits does it in the same way.
"""

import sys

import torch
from pyautoattack import AutoAttack

import dat
from dat_engine.data import batches, load, take

model = dat.load_model(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
test = take(load("digits", root="data", split="test", download=False), 64, seed=0)
images, labels = next(batches(test, len(test), "cpu"))

attack = AutoAttack(model, norm="Linf", eps=0.1, version="custom", attacks=["apgd-ce"], device="cpu", seed=0)
attack.verbose = False
adversarial, _ = attack.run_standard_evaluation(images, labels, batch_size=64)

with torch.no_grad():
    correct = (model(adversarial).argmax(1) == labels).float().mean()
ours = dat.evaluate(model, (images, labels), attacks=["natural", "pgd20"], epsilon=0.1)
print(f"natural {ours['natural']:.1f} %, PGD-20 {ours['pgd20']:.1f} %, AutoAttack's APGD {100 * correct:.1f} %")

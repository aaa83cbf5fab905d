"""Train a network of your own on data of your own: anything that maps images in [0, 1] to logits, anything that gives images.

    python examples/own_model_and_data.py

Takes some seconds: scikit-learn's handwritten digits as they are, 8 x 8 pixels, and a network of two layers.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import dat
from dat_engine.step.optimizer_settings import SGDSettings

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16  # [N, 1, 8, 8] in [0, 1]
labels = torch.tensor(digits.target)

network = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1),
    nn.BatchNorm2d(32),  # becomes two: one for images, one for amplitude-mixed images
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(32 * 4 * 4, 10),
)
trainer = dat.Trainer(
    network,
    (images[:1300], labels[:1300]),
    method=dat.methods.DAT(beta=6),
    epsilon=0.1,
    epochs=8,
    batch_size=64,
    optimizer=SGDSettings(learning_rate=0.02),  # the published 0.1 is for deep residual networks
    validation=(images[1300:1500], labels[1300:1500]),
)
print(trainer.fit().accuracy)

# the network itself was trained: it is a module like any other
test = images[1500:], labels[1500:]
print(dict(dat.evaluate(network, test, attacks=["natural", "fgsm", "pgd20"], epsilon=0.1)))

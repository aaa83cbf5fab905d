"""A convolution that corrupts the heap takes another path, and only that one does."""

import subprocess
import sys

import torch
from torch import nn

from dat_engine.model.precision import Precision
from dat_engine.model.strided_convolutions import keep_out_of_channels_last

CHANNELS_LAST = Precision(channels_last=True)
TRAINING = """
import torch
from torch import nn
from dat_engine.data import Batch
from dat_engine.model.precision import Precision
from dat_engine.step.method import Examples, Method
from dat_engine.step.optimizer_settings import SGDSettings
from dat_engine.step.training_step import TrainingStep

class Plain(Method):
    def examples(self, attack_model, batch, noise, progress):
        return Examples(groups=(batch.images,))
    def losses(self, joint):
        return {"loss": nn.functional.cross_entropy(joint.logits[0], joint.targets)}

torch.set_num_threads(1)
model = nn.Sequential(
    nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 1, stride=2, bias=False), nn.Flatten(), nn.Linear(16 * 32 * 32, 4)
)
step = TrainingStep(model, Plain(), optimizer=SGDSettings(learning_rate=0.01), precision=Precision(channels_last=True))
images = torch.rand(8, 3, 64, 64)
for _ in range(20):
    step(Batch(images=images, originals=images, targets=torch.arange(8) % 4, indices=torch.arange(8)))
"""


def test_training_on_64_pixels_at_a_small_width_leaves_the_heap_whole():
    for _ in range(2):
        ran = subprocess.run([sys.executable, "-c", TRAINING], capture_output=True, text=True)
        assert ran.returncode == 0, (ran.returncode, ran.stderr[-2000:])


def test_other_layers_stay_channels_last():
    layers = [
        nn.Conv2d(16, 32, 1, stride=2),
        nn.Conv2d(8, 16, 1),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.Conv2d(8, 16, 1, stride=2),
    ]
    model = nn.ModuleList(layers).to(memory_format=torch.channels_last)
    keep_out_of_channels_last(model, CHANNELS_LAST)
    assert [bool(layer._forward_pre_hooks) for layer in layers] == [False, False, False, True]
    images = torch.rand(2, 8, 8, 8).contiguous(memory_format=torch.channels_last)
    assert layers[3](images).is_contiguous()
    assert layers[2](images).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        layers[3](images), nn.functional.conv2d(images, layers[3].weight, layers[3].bias, stride=2)
    )


def test_other_formats_are_left_alone():
    for precision in (Precision(), Precision(name="bf16", channels_last=True)):
        layer = nn.Conv2d(8, 16, 1, stride=2)
        keep_out_of_channels_last(layer, precision)
        assert not layer._forward_pre_hooks

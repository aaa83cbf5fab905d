"""Plain training: cross entropy on clean images, no attack. The reference point of every robustness claim."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from dat.methods.plain import Plain
from dat.methods.task import Task
from dat_engine.attack.attack_model import AttackModel
from dat_engine.data import Batch
from dat_engine.step.method import Examples, JointPass, Method, Noise
from dat_engine.step.progress import TrainingProgress


class PlainMethod(Method):
    """See the module; one group, x."""

    takes_soft_labels = True

    def __init__(self, settings: Plain, task: Task) -> None:
        self.settings = settings

    def examples(
        self, attack_model: AttackModel | None, batch: Batch, noise: Noise, progress: TrainingProgress
    ) -> Examples:
        return Examples(groups=(batch.images,))

    def losses(self, joint: JointPass) -> dict[str, Tensor]:
        (logits,) = joint.logits
        smoothing = self.settings.label_smoothing
        return {"loss": functional.cross_entropy(logits, joint.targets, label_smoothing=smoothing)}

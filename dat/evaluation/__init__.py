"""Natural and robust accuracy of any classifier on [0, 1] images."""

from dat.evaluation.attacks import ATTACKS, TITLES, parse_attacks
from dat.evaluation.evaluate import evaluate
from dat.evaluation.result import Accuracy, Evaluation, Predictions, check_writable

__all__ = [
    "ATTACKS",
    "TITLES",
    "Accuracy",
    "Evaluation",
    "Predictions",
    "check_writable",
    "evaluate",
    "parse_attacks",
]

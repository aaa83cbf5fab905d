"""``dat evaluate``: a trained classifier under attack, as a table or as JSON."""

from __future__ import annotations

import json

from dat.cli.evaluate_flags import EvaluateFlags
from dat.evaluation import TITLES, check_writable, evaluate, parse_attacks
from dat.training.data import check_data_root, load_test_data
from dat.training.device import choose_device
from dat.training.options import DEFAULT_DATA_ROOT
from dat.training.title import of_weights
from dat.training.trained import load_trained
from dat_engine.data import needs_files
from dat_engine.errors import UserError
from dat_engine.run.display import open_display


def evaluate_trained(flags: EvaluateFlags) -> int:
    """Evaluate what the flags name and print the result; returns the exit code 0.

    Raises:
        UserError: wrong input: no such run or checkpoint, an unknown attack, data that are missing or of other classes.
    """
    attacks = parse_attacks(flags.attacks)
    if flags.save_predictions is not None:
        check_writable(flags.save_predictions)
    device = choose_device(flags.device)
    trained = load_trained(flags.source, device, flags.weights)
    epsilon = trained.recipe.epsilon if flags.epsilon is None else flags.epsilon
    data_root = flags.data_root or trained.data_root or DEFAULT_DATA_ROOT
    if needs_files(trained.recipe.data.name):
        check_data_root(data_root)
    data = load_test_data(trained.recipe, data_root, flags.limit)
    if data.class_names != trained.class_names:
        raise UserError(
            f"{trained.path} was trained on other classes ({len(trained.class_names)}) than {data_root} holds "
            f"({data.num_classes}) of {trained.recipe.data.name}"
        )
    with open_display("silent" if flags.json else "auto") as display:
        result = evaluate(
            trained.model,
            data,
            attacks,
            epsilon=epsilon,
            batch_size=flags.batch_size,
            seed=flags.seed,
            on_progress=lambda attack, done: display.activity(
                f"evaluating {TITLES[attack]}: {done} of {len(data)} images"
            ),
        )
        trained_by = f"{trained.recipe.name} {trained.recipe.method}{of_weights(trained.weights)}"
        title = f"{trained_by}, {result.images} test images, epsilon {epsilon:.4g}"
        display.summary(result.titled(), title=title)
    if flags.save_predictions is not None:
        result.predictions.save(flags.save_predictions)
    if flags.json:
        accuracy = {
            name: {"percent": percent, "standard_error": result.standard_error(name)}
            for name, percent in result.items()
        }
        print(
            json.dumps(
                {
                    "checkpoint": str(trained.path),
                    "evaluated": trained.weights,
                    "recipe": trained.recipe.name,
                    "method": trained.recipe.method,
                    "epsilon": epsilon,
                    "images": result.images,
                    "accuracy": accuracy,
                }
            )
        )
    return 0

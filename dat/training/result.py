"""What a finished training is worth: the chosen weights on the test images, into summary.json and onto the display."""

from __future__ import annotations

import time

from dat.evaluation import TITLES, Evaluation, evaluate, parse_attacks
from dat.recipes import Recipe
from dat.training.title import of_weights
from dat.training.trained import classifier_state
from dat_engine.data import ImageSource
from dat_engine.run.display import Display
from dat_engine.run.run_directory import RunDirectory
from dat_engine.run.stop import Stop
from dat_engine.run.trainer import Ending, Trainer
from dat_engine.step.evaluated import asked_name, evaluated_name


def evaluate_result(
    recipe: Recipe,
    run: RunDirectory,
    test: ImageSource,
    display: Display,
    ending: Ending,
    trainer: Trainer,
    stop: Stop,
) -> Evaluation:
    """Evaluate the best checkpoint's weights, or the last ones where none was selected; they are the step's afterwards.

    Every process takes part; the main one writes.

    Raises:
        Stopped: `stop` had a reason between two batches.
    """
    processes, model = trainer.processes, trainer.step.evaluated_model
    best, last = False, evaluated_name(trainer.step)
    weights = last
    if run.checkpoints.best_path.exists():  # a damaged one is warned of, and the newest is taken
        selected, source = run.checkpoints.load_selected()
        weights, found = classifier_state(selected, model, source)
        model.load_state_dict(found)
        best = source == run.checkpoints.best_path
    started = time.perf_counter()
    result = evaluate(
        model,
        test,
        parse_attacks(recipe.evaluation.attacks),
        epsilon=recipe.epsilon,
        batch_size=recipe.evaluation.batch_size,
        seed=recipe.seed,
        processes=processes,
        on_progress=lambda attack, done: display.activity(f"evaluating {TITLES[attack]}: {done} images"),
        stop=stop,
    )
    if not processes.is_main:
        return result
    asked = asked_name(trainer.step)
    if weights != asked:
        newest = run.checkpoints.step_paths()[:1] if last == asked else []
        where = f"`dat evaluate {newest[0]}` evaluates it" if newest else "no checkpoint holds it"
        display.warn(
            f"the {'best' if best else 'last'} checkpoint has {weights} weights and not yet the average that "
            f"{'swa.start' if asked == 'swa' else 'ema.decay'} asks for; {where}"
        )
    run.write_summary(
        {
            "recipe": recipe.name,
            "method": recipe.method,
            "epsilon": recipe.epsilon,
            "checkpoint": "best" if best else "last",
            "evaluated": weights,
            "ending": ending,
            "training_seconds": trainer.seconds,
            "evaluation_seconds": time.perf_counter() - started,
            "test_images": result.images,
            "damaged_files": list(trainer.loader.damaged_files),
            "accuracy": dict(result),
        }
    )
    display.summary(
        result.titled(),
        title=f"{recipe.method}{of_weights(weights)} on {result.images} test images, epsilon {recipe.epsilon:.4g}",
    )
    return result

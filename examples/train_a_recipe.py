"""Train a recipe on the embedded handwritten digits, look at the result, and evaluate it once more by another attack.

    python examples/train_a_recipe.py

Takes a minute; with `EPOCHS=1` some seconds. The same from a shell: `dat train digits-resnet --run-dir runs/example`.
"""

import os

import dat

run = dat.train("digits-resnet", method="dat", epochs=int(os.environ.get("EPOCHS", "25")), run_dir="runs/example")
print(run)
print(f"robust: {run.accuracy['pgd20']:.1f} % of the test images withstand PGD-20")
for row in run.history[-3:]:
    print(f"epoch {row['epoch']}: loss {row['epoch_loss']:.3f}, validation PGD-20 {row['validation_pgd20']:.1f} %")

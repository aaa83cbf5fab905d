"""What is done to training images: crop and flip, and one augmentation after them; `registry` knows them by name."""

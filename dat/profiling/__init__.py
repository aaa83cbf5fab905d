"""What `dat profile` measures, its table and picture, and the eager baselines."""

"""Training loaders: resident, NVIDIA DALI, torchvision."""

"""The network as the engine sees it: BatchNorm with branches, synchronised BatchNorm, number formats."""

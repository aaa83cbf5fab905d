"""Where time goes: named ranges, timing in turn, traces, FLOP counts."""

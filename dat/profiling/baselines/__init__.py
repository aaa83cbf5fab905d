"""Training steps as published code runs them, to be timed beside the engine's; `dat profile --baseline eager`."""

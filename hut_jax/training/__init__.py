"""Steps, the loop, the optimizer, checkpoints and the log. Imports parallel and core, and knows no task by name."""

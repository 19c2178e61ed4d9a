"""What a computation costs: its FLOPs, and what devices send one another. Imports core alone."""

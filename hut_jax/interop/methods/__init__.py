"""PEFT's methods: from each one's tensors to our factors, and back. May import interop and the folders below it."""

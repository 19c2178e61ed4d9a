"""PEFT's methods: from each one's tensors to our factors, and back."""

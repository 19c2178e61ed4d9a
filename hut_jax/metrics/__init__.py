"""From predictions and references to scores."""

"""The five scores of the E2E challenge. May import metrics and core."""

"""The E2E challenge's five scores. Imports metrics and core."""

"""The E2E NLG data: restaurants to describe. Imports data and what lies below it."""

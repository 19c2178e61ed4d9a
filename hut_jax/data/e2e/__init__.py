"""The E2E NLG data: restaurants to describe. May import data and the folders below it."""

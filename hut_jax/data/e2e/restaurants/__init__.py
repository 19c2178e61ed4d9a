"""Made-up restaurants in the format of E2E: training without the real data, and texts whose facts can be checked."""

from hut_jax.data.e2e.restaurants.facts import facts_in, parse_mr, show_mr, wrong_slots
from hut_jax.data.e2e.restaurants.files import write_restaurants
from hut_jax.data.e2e.restaurants.score import FactScores, score_facts

__all__ = ["FactScores", "facts_in", "parse_mr", "score_facts", "show_mr", "write_restaurants", "wrong_slots"]

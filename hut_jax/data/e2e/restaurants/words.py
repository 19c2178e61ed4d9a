"""The values of the made-up restaurants' slots, and the ways to say them."""

from random import Random
from typing import NamedTuple


class Words(NamedTuple):
    """The words that the names and landmarks of a split are made of."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    landmark_first: tuple[str, ...]
    landmark_second: tuple[str, ...]

    def name(self, random: Random) -> str:
        """A restaurant's name."""
        way = random.randrange(4)
        if way == 0:
            return " and ".join(random.sample(self.second, 2))
        name = f"{random.choice(self.first)} {random.choice(self.second)}"
        return f"The {name}" if way == 1 else name

    def landmark(self, random: Random) -> str:
        """A landmark's name."""
        return f"{random.choice(self.landmark_first)} {random.choice(self.landmark_second)}"


TRAIN = Words(
    first=(
        "Amber", "Ashen", "Bitter", "Blue", "Brass", "Candle", "Clover", "Copper", "Crooked", "Dusty", "Early",
        "Feather", "Flint", "Floating", "Garlic", "Gilded", "Ginger", "Harvest", "Hollow", "Honey", "Hungry", "Iron",
        "Ivory", "Jolly", "Juniper", "Late", "Lemon", "Little", "Lucky", "Maple", "Marble", "Merry", "Midnight",
        "Mossy", "Mustard", "Olive", "Paper", "Pepper", "Plum", "Quiet", "Rusty", "Salted", "Sleepy", "Smoky",
        "Sunday", "Tall", "Thirsty", "Velvet", "Walnut", "Wandering", "Willow", "Winter",
    ),
    second=(
        "Anchor", "Anvil", "Apron", "Badger", "Barrel", "Basket", "Beetle", "Bottle", "Bramble", "Bucket", "Cabin",
        "Cleaver", "Compass", "Cricket", "Cupboard", "Dolphin", "Duck", "Fiddle", "Foundry", "Fountain", "Goose",
        "Hammer", "Hedgehog", "Heron", "Kettle", "Ladder", "Ladle", "Lantern", "Larder", "Loft", "Magpie", "Mill",
        "Orchard", "Oven", "Owl", "Parlour", "Pelican", "Pigeon", "Pitcher", "Platter", "Radish", "Rooster",
        "Saucer", "Shed", "Skillet", "Snail", "Sparrow", "Spoon", "Stable", "Thistle", "Trout", "Wagon",
    ),
    landmark_first=(
        "Abbey", "Bellmaker", "Corn", "Drummond", "Fisher", "Granary", "Harper", "Lamplight", "Market", "Monk",
        "North", "Priory", "Queen", "Saddler", "Swan", "Tanner", "Weaver", "Windmill",
    ),
    landmark_second=("Bridge", "Gardens", "Hall", "Library", "Lock", "Theatre"),
)  # fmt: skip
"""Of the training split."""

HELD_OUT = Words(
    first=(
        "Autumn", "Barley", "Brindled", "Buttered", "Cedar", "Chalk", "Cinnamon", "Coral", "Crimson", "Dappled",
        "Fennel", "Frozen", "Grand", "Hazel", "Indigo", "Lonely", "Nutmeg", "Painted", "Pickled", "Proud", "Saffron",
        "Scarlet", "Sugar", "Tin", "Twisted", "Upper", "Vanilla", "Woolly",
    ),
    second=(
        "Acorn", "Attic", "Beaver", "Bellows", "Bannock", "Button", "Cauldron", "Cellar", "Clock", "Crab",
        "Curlew", "Falcon", "Gate", "Griddle", "Hamper", "Jug", "Lobster", "Mortar", "Napkin", "Otter", "Pantry",
        "Pear", "Rabbit", "Squirrel", "Table", "Teapot", "Turnip", "Wharf",
    ),
    landmark_first=("Cobbler", "Castle", "Dover", "Ferry", "Glover", "Mercer", "Orange", "Potter", "Rowan", "Stone"),
    landmark_second=("Arcade", "Baths", "Court", "Pavilion", "Museum", "Station"),
)  # fmt: skip
"""Of the validation and test splits: a model that has learned the training split has seen none of them."""

WORDS = {"train": TRAIN, "validation": HELD_OUT, "test": HELD_OUT}

KINDS = ("bistro", "tavern", "tea room", "diner", "noodle bar")
FOODS = ("Basque", "Georgian", "Korean", "Lebanese", "Nepalese", "Peruvian", "Welsh")
AREAS = {
    "harbour": ("at the", "by the", "in the"),
    "old town": ("in the",),
    "market square": ("on the",),
    "hillside": ("on the",),
    "university quarter": ("in the",),
}
# A value -> adjectives before the noun, and predicates after "it".
Ways = dict[str, tuple[tuple[str, ...], tuple[str, ...]]]

PRICES: Ways = {
    "budget": (("inexpensive", "low-cost", "budget"), ("will not cost you much", "keeps its prices low")),
    "mid-range": (("mid-range", "reasonably priced"), ("has fair prices", "is neither dear nor cheap")),
    "upscale": (("upscale", "expensive", "high-end"), ("has high prices", "is on the dear side")),
    "under £15": ((), ("charges under £15", "has meals for under £15", "serves most dishes at under £15")),
    "over £40": ((), ("charges over £40", "has meals for over £40", "will set you back over £40")),
}
RATINGS: Ways = {
    "poor": (("poorly rated", "badly reviewed"), ("has poor reviews", "gets poor marks from its guests")),
    "fair": (("decently rated",), ("has fair reviews", "gets fair marks from its guests")),
    "excellent": (("highly rated", "well reviewed"), ("has excellent reviews", "is excellent, its guests say")),
    "two stars": (("two-star",), ("has two stars", "is rated at two stars")),
    "four stars": (("four-star",), ("has four stars", "is rated at four stars")),
}
FAMILY: Ways = {
    "yes": (
        ("family-friendly", "child-friendly"),
        ("welcomes children", "suits families", "is a good choice with kids"),
    ),
    "no": (("adults-only",), ("does not admit children", "is no place for families", "is for adults only")),
}
ADJECTIVES = {"priceRange": PRICES, "customer rating": RATINGS, "familyFriendly": FAMILY}
"""The slots that are said by an adjective or a predicate."""

SLOTS = ("name", "eatType", "food", "priceRange", "customer rating", "area", "familyFriendly", "near")
"""All slots, in the order of E2E's meaning representations."""


def draw_value(random: Random, slot: str, words: Words) -> str:
    """A value of the slot."""
    if slot == "name":
        return words.name(random)
    if slot == "near":
        return words.landmark(random)
    closed = {"eatType": KINDS, "food": FOODS, "area": tuple(AREAS)}
    return random.choice(closed[slot] if slot in closed else tuple(ADJECTIVES[slot]))

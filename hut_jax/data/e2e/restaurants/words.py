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
        "Amber", "Ancient", "Apple", "Arctic", "Ashen", "Bashful", "Bent", "Bitter", "Blue", "Bold", "Brass", "Brave",
        "Bright", "Bronze", "Brown", "Burnt", "Calm", "Candle", "Careful", "Cheerful", "Cherry", "Clever", "Clover",
        "Cold", "Copper", "Cosy", "Cotton", "Creaky", "Crooked", "Crystal", "Curious", "Dancing", "Dapper", "Daring",
        "Dark", "Desert", "Dizzy", "Double", "Dusty", "Eager", "Early", "Ebony", "Elder", "Emerald", "Empty", "Faded",
        "Faithful", "Fancy", "Feather", "Fiery", "Flint", "Floating", "Flying", "Foggy", "Forest", "Fragrant",
        "Friendly", "Frosty", "Garlic", "Gentle", "Giant", "Gilded", "Ginger", "Glass", "Golden", "Graceful", "Green",
        "Grey", "Happy", "Harvest", "Heavy", "Hidden", "Hollow", "Honest", "Honey", "Humble", "Hungry", "Icy", "Idle",
        "Iron", "Ivory", "Jade", "Jolly", "Juniper", "Kind", "Large", "Late", "Laughing", "Lazy", "Lemon", "Lilac",
        "Little", "Lively", "Lost", "Loud", "Lucky", "Magic", "Maple", "Marble", "Mellow", "Merry", "Midnight", "Minty",
        "Misty", "Modest", "Mossy", "Muddy", "Mustard", "Narrow", "Nimble", "Noble", "Northern", "Oaken", "Odd", "Old",
        "Olive", "Open", "Paper", "Patient", "Peach", "Pepper", "Pink", "Plain", "Plum", "Polished", "Pretty", "Purple",
        "Quick", "Quiet", "Rainy", "Rapid", "Rare", "Red", "Restless", "Ripe", "River", "Rosy", "Rough", "Round",
        "Royal", "Ruby", "Rustic", "Rusty", "Salted", "Sandy", "Sapphire", "Scented", "Secret", "Shady", "Sharp",
        "Shining", "Short", "Silent", "Simple", "Singing", "Sleepy", "Slender", "Slow", "Smoky", "Smooth", "Snowy",
        "Soft", "Solid", "Southern", "Spicy", "Spotted", "Spring", "Square", "Starry", "Steady", "Stony", "Stormy",
        "Striped", "Summer", "Sunday", "Sunny", "Sweet", "Swift", "Tall", "Tangled", "Tender", "Thirsty", "Tidy",
        "Tiny", "Toasted", "Topaz", "Turquoise", "Velvet", "Violet", "Walnut", "Wandering", "Warm", "Western", "White",
        "Wicker", "Wild", "Willow", "Windy", "Winter", "Wise", "Yellow", "Young",
    ),
    second=(
        "Almond", "Anchor", "Ant", "Antler", "Anvil", "Apron", "Arrow", "Axe", "Badger", "Bagel", "Balcony", "Banjo",
        "Barn", "Barrel", "Basin", "Basket", "Bat", "Beacon", "Bear", "Bee", "Beetle", "Bell", "Bench", "Berry",
        "Bicycle", "Blanket", "Boat", "Book", "Boot", "Bottle", "Bowl", "Box", "Bramble", "Branch", "Bread", "Brick",
        "Broom", "Brush", "Bucket", "Buffalo", "Bull", "Bus", "Cabbage", "Cabin", "Cake", "Camel", "Camera", "Candle",
        "Canoe", "Carpet", "Carrot", "Cart", "Cat", "Chair", "Cheese", "Chestnut", "Chimney", "Cleaver", "Cloak",
        "Cloud", "Coach", "Coat", "Coin", "Comet", "Compass", "Cone", "Cook", "Corner", "Cow", "Cradle", "Crane",
        "Cricket", "Crow", "Crown", "Cup", "Cupboard", "Curtain", "Deer", "Desk", "Dolphin", "Donkey", "Door", "Dove",
        "Dragon", "Drum", "Duck", "Eagle", "Eel", "Egg", "Elk", "Engine", "Fan", "Feast", "Fern", "Ferret", "Fiddle",
        "Fig", "Finch", "Fish", "Flag", "Flame", "Flute", "Fork", "Foundry", "Fountain", "Fox", "Frog", "Garden",
        "Giraffe", "Glove", "Goat", "Goose", "Grape", "Grove", "Guitar", "Gull", "Hammer", "Hare", "Harp", "Hat",
        "Hawk", "Hearth", "Hedgehog", "Helmet", "Hen", "Heron", "Hill", "Hive", "Hook", "Horn", "Horse", "Jackal",
        "Jar", "Kettle", "Key", "Kite", "Ladder", "Ladle", "Lamb", "Lamp", "Lantern", "Larder", "Lark", "Leaf",
        "Leopard", "Lily", "Lion", "Lizard", "Loft", "Log", "Loom", "Magpie", "Mango", "Mask", "Melon", "Mill",
        "Mirror", "Mole", "Moon", "Moose", "Moth", "Mouse", "Mule", "Mushroom", "Needle", "Nest", "Newt", "Nut", "Oak",
        "Oar", "Onion", "Orchard", "Oven", "Owl", "Ox", "Oyster", "Paddle", "Palace", "Pan", "Panda", "Parlour",
        "Parrot", "Parsnip", "Peacock", "Pebble", "Pelican", "Pen", "Penguin", "Pepper", "Piano", "Pie", "Pig",
        "Pigeon", "Pillow", "Pine", "Pitcher", "Plate", "Platter", "Plough", "Poppy", "Porch", "Pot", "Potato",
        "Puffin", "Pumpkin", "Quail", "Quilt", "Radish", "Ram", "Raven", "Reed", "Ribbon", "Ring", "Robin", "Roof",
        "Rooster", "Rope", "Rose", "Saddle", "Salmon", "Saucer", "Saw", "Seal", "Shark", "Shed", "Sheep", "Shell",
        "Shield", "Ship", "Shoe", "Skillet", "Skylark", "Snail", "Snake", "Sofa", "Spade", "Sparrow", "Spider", "Spoon",
        "Stable", "Stag", "Star", "Stool", "Stork", "Stove", "Stream", "Swallow", "Swan", "Sword", "Tent", "Thimble",
        "Thistle", "Throne", "Tiger", "Toad", "Tomato", "Torch", "Tower", "Train", "Tree", "Trout", "Trumpet", "Tulip",
        "Turkey", "Turtle", "Urn", "Vase", "Vine", "Violin", "Wagon", "Walrus", "Wasp", "Weasel", "Well", "Whale",
        "Wheel", "Whistle", "Wolf", "Wren", "Yak",
    ),
    landmark_first=(
        "Abbey", "Acton", "Albert", "Alder", "Baker", "Barlow", "Bell", "Bellmaker", "Bramley", "Brook", "Carter",
        "Chapel", "Church", "Clifton", "Cooper", "Corn", "Crescent", "Cross", "Dean", "Drummond", "Eastern", "Elm",
        "Fairfax", "Farmer", "Fisher", "Forge", "Fort", "Foster", "George", "Granary", "Hamilton", "Harper", "Hawthorn",
        "Henley", "Holly", "Hunter", "Jubilee", "Kingston", "Lamplight", "Laurel", "Lincoln", "Mansion", "Market",
        "Mason", "Meadow", "Merton", "Miller", "Monk", "Norfolk", "North", "Oakley", "Park", "Parson", "Pearl", "Piper",
        "Poplar", "Priory", "Queen", "Ridge", "Saddler", "Sailor", "Sawyer", "Shepherd", "Smith", "Swan", "Tanner",
        "Temple", "Thatcher", "Trinity", "Union", "Victoria", "Walker", "Weaver", "Wells", "Windmill",
    ),
    landmark_second=(
        "Bridge", "Cinema", "Corner", "Gallery", "Gardens", "Hall", "Hospital", "Hotel", "Library", "Lock", "Market",
        "Palace", "Pier", "School", "Square", "Theatre", "Tower",
    ),
)  # fmt: skip
"""Of the training split."""

HELD_OUT = Words(
    first=(
        "Autumn", "Barley", "Brindled", "Buttered", "Cedar", "Chalk", "Cinnamon", "Coral", "Crimson", "Dappled",
        "Fennel", "Frozen", "Grand", "Hazel", "Indigo", "Lonely", "Nutmeg", "Painted", "Pickled", "Proud", "Saffron",
        "Scarlet", "Sugar", "Tame", "Twisted", "Upper", "Vanilla", "Woolly",
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
    "harbour": "at the",
    "old town": "in the",
    "market square": "on the",
    "hillside": "on the",
    "university quarter": "in the",
}
"""An area -> what stands before it."""
# A value -> adjectives before the noun, and predicates after "it".
Ways = dict[str, tuple[tuple[str, ...], tuple[str, ...]]]

PRICES: Ways = {
    "budget": (("low-cost",), ("keeps its prices low",)),
    "mid-range": (("mid-range",), ("has fair prices",)),
    "upscale": (("upscale",), ("has high prices",)),
    "under £15": ((), ("charges under £15",)),
    "over £40": ((), ("charges over £40",)),
}
RATINGS: Ways = {
    "poor": (("poorly rated",), ("has poor reviews",)),
    "fair": (("decently rated",), ("has fair reviews",)),
    "excellent": (("highly rated",), ("has excellent reviews",)),
    "two stars": (("two-star",), ("has two stars",)),
    "four stars": (("four-star",), ("has four stars",)),
}
FAMILY: Ways = {
    "yes": (("family-friendly",), ("welcomes children",)),
    "no": (("adults-only",), ("is no place for families",)),
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

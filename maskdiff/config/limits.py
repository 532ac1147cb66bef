"""Bounds of numbers that several options or commands share."""

MAX_SEED = 2**63 - 1
MAX_COUNT = 10**9  # of steps and other things that take time and no memory
MAX_LENGTH = 16_384  # tokens of a string that a model makes
MAX_THREADS = 1024
MAX_PARAMETERS = 10**9  # of a model
MAX_STEP_TOKENS = 2**24  # of the strings of one step
MAX_HELD_TOKENS = 2**31  # of a fixed training set
MAX_VALIDATED_TOKENS = 2**26  # of the held-out strings of a validation
MAX_RATE = 100.0  # learning rates and decays

# Of requests, by flags and in Python
MAX_STRINGS = 10**6  # new strings, or completions of a text, of one call
MAX_MEASURED = 10**5  # strings of a figure of a benchmark, all kept in memory
MAX_BEAM = 1024
MAX_ALTERNATIVES = 1000
MAX_CHANGE = 4096  # symbols that a repair may add or remove, and its edits
MAX_BOUND = 10**7  # prefixes that a search examines
MAX_PLACE = 10**9  # positions and lengths in symbols
CANDIDATES = 100  # answers to a repair or an edit that are checked for validity, likeliest first
MOST_CANDIDATES = 1000

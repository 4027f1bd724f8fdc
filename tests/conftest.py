"""Settings for every test; fixtures live beside the tests that use them."""

from hypothesis import settings

settings.register_profile("tether", deadline=None, print_blob=True)
settings.register_profile("fuzz", deadline=None, print_blob=True, max_examples=20_000)
settings.load_profile("tether")

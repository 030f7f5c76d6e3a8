"""The fixtures of the store's tests: databases, empty and filled with plausible records."""

from tests.store.conftest import empty_file as empty_file
from tests.store.conftest import store as store

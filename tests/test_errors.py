"""Sentences about failures, and what they never hold."""

import pytest

from harness.errors import masked_url


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("https://host:8000/v1/models", "https://host:8000/v1/models"),
        ("https://me:hunter2@host/v1", "https://***@host/v1"),
        ("https://hunter2@host", "https://***@host"),
        ("https://host/v1?api_key=hunter2&b=c", "https://host/v1?***"),
        ("https://host/v1#hunter2", "https://host/v1?***"),
        ("--db=postgresql+psycopg://me:hunter2@h:5/db twice", "--db=postgresql+psycopg://***@h:5/db twice"),
        ("a.base_url=http://me:hunter2@h/v1?k=hunter2 b.base_url=http://x:hunter2@h", "a.base_url=http://***@h/v1?*** b.base_url=http://***@h"),
        ("postgresql://me:hun@ter2/@host/db", "postgresql://***@host/db"),
        ("postgresql://me:hunter2?#@host/db", "postgresql://***"),
        ("https://host/@scope/name", "https://host/@scope/name"),
        ("sqlite:////tmp/results.db", "sqlite:////tmp/results.db"),
        ("a path/of@files?", "a path/of@files?"),
    ],
)  # fmt: skip
def test_addresses_are_shown_without_user_info_and_query(text, masked):
    assert masked_url(text) == masked
    assert masked_url(masked) == masked

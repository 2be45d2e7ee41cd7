"""Tests mirror the source; tests/invariants/ and tests/e2e/ run the real engine."""

"""Tests against real third-party programs, which are fetched once, run on loopback, and asked what arrived."""

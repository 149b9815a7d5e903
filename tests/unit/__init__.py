"""Tests of Python parts by themselves."""

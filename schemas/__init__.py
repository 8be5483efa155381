"""Pyarrow schemas of every table in and out; imports pyarrow only."""

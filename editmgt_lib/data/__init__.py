"""Pairs to train on: readers, the token cache, and the order in which samples come."""

"""Pairs from pictures: stages that score rows, and thresholds that decide afterwards."""

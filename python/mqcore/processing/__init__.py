"""Consume, process, produce: a function of the user's between two topics, under one of two guarantees."""

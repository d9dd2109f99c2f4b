"""Workflows: histories, turns, workers."""

"""Matinee: a booking service for movie theatres."""

__version__ = "0.1.0"

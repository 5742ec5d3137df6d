"""Leaderboard as one HTML file."""

"""A leaderboard as one HTML file."""

"""Hybrid branches, their losses, and the objectives of every training method."""

"""Spiking neurons and rate-based backpropagation: equations first."""

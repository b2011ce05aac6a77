"""Drills: kill or freeze a program of the embedded stack, and measure what the shop notices."""

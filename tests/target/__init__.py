"""The protocol front ends under a real Linux host, over a unit in memory."""

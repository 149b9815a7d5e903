"""Hosts and clients that attack the product as a whole."""

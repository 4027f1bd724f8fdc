"""Tenants: who may ask, by which key, and for how much."""

"""Measurements that anyone can repeat; `python -m bench` runs them all."""

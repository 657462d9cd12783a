"""Logits of transformers, recorded and live; see record.py."""
